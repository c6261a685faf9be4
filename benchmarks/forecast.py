"""What averaging will bring, told from the single checkpoints alone: fits the forecast, and says how wrong it is.

    python benchmarks/forecast.py --seeds 0 1        (makes the sets that are not there yet; about 20 s a set)
    python benchmarks/forecast.py --fit              (only fits anew, to what was measured before)

On every set of `small_sets`, `auto` runs with the loss as its metric. Gain: the logarithm of the best checkpoint's test
loss, of the result's. A forecast sees distances, steps and single losses (`ladle_engine.subspace.forecast`). Every form
of it is judged by leaving one family of data out: it is fitted to the others, with all of their seeds. One is offered
only if it beats the median of the other families by more than three standard errors over families.

The numbers go into `worker/ladle_engine/subspace/forecast_fit.json`, which nobody edits.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from checkpoint_sets import PreparedSet, prepare
from forecast_forms import CONFIDENCE, TARGETS, Judged, Row, fit_of, judged_forms, offered
from measuring import results_path, save, table_lines
from small_sets import SMALL, Run

import ladle_engine.subspace.forecast as engine
from ladle_engine.determinism import deterministic
from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.evaluation.evaluate import evaluate
from ladle_engine.pipeline.candidates import Candidate, run_methods, winner_of
from ladle_engine.pipeline.forecast_report import seen_in
from ladle_engine.pipeline.function_request import make_request
from ladle_engine.pipeline.open_job import opened
from ladle_engine.pipeline.prepare import prepare as prepare_job
from ladle_engine.pipeline.prepare import with_directions
from ladle_engine.subspace.forecast import OF_DISTANCES, OF_LOSSES, as_share, straightened
from ladle_engine.versions import versions

NAME = "forecast"
FIT = Path(engine.__file__).with_name(engine.FIT_FILE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", choices=SMALL, nargs="+", default=list(SMALL), metavar="SET")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no set after so many")
    parser.add_argument("--fit", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = results_path(NAME)
    rows = [Row(**row) for row in json.loads(path.read_text())["rows"]] if path.exists() else []
    started = time.monotonic()
    wanted = [] if arguments.fit else [(name, seed) for seed in arguments.seeds for name in arguments.sets]
    for name, seed in wanted:
        if any((row.set, row.seed) == (name, seed) for row in rows):
            continue
        if time.monotonic() - started > 60 * arguments.minutes:
            break
        began = time.monotonic()
        rows.append(measured(prepare(name, seed)))
        row = rows[-1]
        print(f"{name} {seed}: {row.kind}, gain {row.gain:.3f}, {time.monotonic() - began:.0f} s", flush=True)
        save(NAME, {"rows": [asdict(row) for row in rows]}, "")
    judged = judged_forms(rows)
    fit = fit_of(rows, judged)
    FIT.write_text(json.dumps(fit, indent=1) + "\n")
    result = {
        "versions": versions(),
        "rows": [asdict(row) for row in rows],
        "left_out": {
            target: {form: each.to_json() for form, each in forms.items()} for target, forms in judged.items()
        },
    }
    print(save(NAME, result, markdown(rows, judged, fit)))


def measured(prepared: PreparedSet) -> Row:
    """`auto` on one set."""
    with tempfile.TemporaryDirectory() as temporary:
        request = make_request(
            {
                "ckpt_dir": prepared.checkpoints,
                "val_set": prepared.val,
                "output": Path(temporary) / "out",
                "task": prepared.task,
                "metric": "loss",
                "seed": prepared.seed,
            }
        )
        with opened(request) as job, deterministic(job.device), closing(prepare_job(job, with_directions)) as context:
            candidates = run_methods(context, lambda: None)
            winner = winner_of(candidates, context)
            features = engine.features_of(seen_in(context))
            assert features is not None, "every set has enough checkpoints"
            test = prepared.examples(prepared.test_data)

            def loss(candidate: Candidate) -> float:
                context.load_weights(candidate.choice.coefficients, candidate.judged.statistics)
                return evaluate(context.binding.model, test, SingleProcess()).loss

            best, mean, result = map(loss, (candidates[0], by_name(candidates, "uniform"), winner))
    recipe = SMALL[prepared.name][1]
    return Row(
        set=prepared.name,
        seed=prepared.seed,
        kind="sweep" if not isinstance(recipe, Run) else "decayed" if recipe.decayed else "constant",
        K=len(prepared.found.names),
        features={name: round(value, 4) for name, value in features.items()},
        gain=round(math.log(best / result), 4),
        gain_of_mean=round(math.log(best / mean), 4),
        winner=winner.method,
    )


def by_name(candidates: Sequence[Candidate], method: str) -> Candidate:
    return next(candidate for candidate in candidates if candidate.method == method)


def markdown(rows: Sequence[Row], judged: Mapping[str, Mapping[str, Judged]], fit: Mapping[str, Any]) -> str:
    names = (*OF_DISTANCES, *OF_LOSSES)
    best = {target: offered(judged[target])[0] for target in TARGETS}
    values = zip(rows, *(judged[target][form].expected for target, form in best.items()), strict=True)
    table = table_lines(
        ("set, seed", "kind", "K", *names, "result, %", "mean, %", *(f"{each} by {best[each]}" for each in TARGETS)),
        (
            (
                f"{row.set} {row.seed}",
                *(row.kind, str(row.K)),
                *(f"{row.features[name]:.2f}" for name in names),
                *(f"{100 * as_share(gain):.1f}" for gain in (row.gain, row.gain_of_mean)),
                *(f"{100 * as_share(straightened(value)):.1f}" for value in expected),
            )
            for row, *expected in values
        ),
    )
    forms = table_lines(
        ("of", "form", "error, bent", "less than the median's", "points", f"in {CONFIDENCE:.0%} interval", "offered"),
        (
            (
                *(target, form, f"{each.error:.3f}"),
                "-" if form == "median" else "{:.3f} ± {:.3f}".format(*each.better_than(judged[target]["median"])),
                *(f"{each.points:.1f}", f"{each.covered:.0%}", "yes" if form in offered(judged[target]) else "no"),
            )
            for target in TARGETS
            for form, each in judged[target].items()
        ),
    )
    decayed = fit["decayed"]
    gains = {name: "{:.1%} (between {:.1%} and {:.1%})".format(*_turned(decayed[name])) for name in _GAINS}
    return "\n".join(
        [
            "# What averaging will bring",
            "",
            f"`python benchmarks/forecast.py`. {len(rows)} sets of {len(fit['families'])} families of data:",
            f"{', '.join(fit['families'])}. A form is fitted to all families but one, and judged on that one. Errors",
            "are means of absolute differences; *bent* is the scale on which the lines are straight, after ± stands",
            "the standard error over families. Gains are in percent of the best checkpoint's test loss: of what `auto`",
            "chose by the loss (*result*), and of the mean of all checkpoints.",
            "",
            *forms,
            "",
            f"- A decayed learning rate is told from `slowing` below {decayed['below']:.2f}: for families that did not",
            f"  choose the border, {decayed['told'][0]} of {decayed['told'][1]} runs that decayed, and wrongly for",
            f"  {decayed['wrongly'][0]} of the {decayed['wrongly'][1]} other sets.",
            f"- Median gain of `auto` where it had: {gains['gains']}; of all others: {gains['gains_of_others']}.",
            "",
            *table,
            "",
        ]
    )


_GAINS = ("gains", "gains_of_others")


def _turned(three: Sequence[float]) -> tuple[float, float, float]:
    low, median, high = three
    return median, low, high


if __name__ == "__main__":
    main()

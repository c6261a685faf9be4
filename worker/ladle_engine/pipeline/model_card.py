"""The model card: what a person who finds the folder wants to know."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ladle_engine.pipeline.front_matter import front_matter
from ladle_report.forecast_words import beside_gain
from ladle_report.loss_decided import loss_decided
from ladle_report.markdown_text import cell, code, words
from ladle_report.model import Figure
from ladle_report.reading import read
from ladle_report.sureness import needed_examples


def model_card(report: Mapping[str, Any], figures: Sequence[Figure] = ()) -> str:
    """Markdown with the front matter of a model hub. Nothing in a report can be more than text in it.

    `figures` are drawn in files beside the card: `picture_file`.
    """
    metric = report["metric"]["name"]
    names = [checkpoint["name"] for checkpoint in report["checkpoints"]]
    return "\n".join(
        [
            front_matter(report),
            "",
            _heading(report),
            "",
            _verdict(report),
            "",
            *_forecast(report),
            *[line for figure in figures for line in _picture(figure)],
            *_table(report, list(dict.fromkeys([metric, "loss"]))),
            "",
            f"The candidates were judged on the select split ({report['splits']['select']} examples), which was not "
            f"used for training. The coefficients were trained on the fit split ({report['splits']['fit']} examples), "
            f"or on the training set that the job names. The interval is that of a paired comparison with the best "
            f"single checkpoint{_counted(report)}. The last column is measured on {report['splits']['fit_judged']} "
            f"examples of the fit split.",
            "",
            *_sets(report),
            *_statistics(report["statistics"]),
            *_adapters(report.get("adapters")),
            *_left_out(report),
            "## Load",
            "```python",
            *(_loading(report.get("files", ())) if report.get("adapters") is None else _LOAD_ADAPTER),
            "```",
            "",
            "## Rebuild",
            "With `coefficients.json` and the original checkpoints you can rebuild this model, or any other candidate, "
            "bit for bit:",
            "```python",
            "from ladle_engine import rebuild",
            'rebuild("coefficients.json", "path/to/checkpoints", output="again")',
            "```",
            "",
            "## Made from",
            *[f"- {code(name)}" for name in names],
            *([f"- {code(report['base']['name'])}, from which these were trained"] if "base" in report else []),
            "",
            *_warnings(report),
            f"Made by Ladle {report['versions']['ladle']}. All figures are in `report.json`.",
            "",
        ]
    )


def _heading(report: Mapping[str, Any]) -> str:
    count = len(report["checkpoints"])
    if report["winner"] == "best":
        return f"# The best of {count} checkpoints"
    return f"# Average of {count} checkpoints ({code(report['winner'])})"


def picture_file(figure: Figure) -> str:
    """The name of its picture."""
    return f"{figure.name}.png"


def _picture(figure: Figure) -> list[str]:
    shown = [f"![{words(figure.title)}]({picture_file(figure)})", ""]
    return [*shown, words(figure.reading), ""] if figure.reading else shown


def _loading(files: Collection[str]) -> list[str]:
    described = next((name for name in files if name.endswith(".metadata")), None)
    if described is None:
        weights = next((name for name in sorted(files) if name.endswith(".safetensors")), "model.safetensors")
        return [
            "from safetensors.torch import load_file",
            f"weights = load_file({json.dumps(weights)})",
            "# or from_pretrained(folder), if config.json is one of transformers'",
        ]
    place = described.removesuffix(".metadata") or "."
    return [
        "import torch.distributed.checkpoint as dcp",
        f"dcp.load(state_dict, checkpoint_id={json.dumps(place)})",
        "# `state_dict` has the tensors and names of the checkpoints that this was made from",
    ]


def _verdict(report: Mapping[str, Any]) -> str:
    gain, metric = report["gain"], report["metric"]
    told = loss_decided(report["candidates"], report["winner"], metric["name"])
    decided = words(told) if told else ""
    if report["winner"] == "best" and decided:
        return f"{decided} So this is the best checkpoint, {_how_it_is(report)}.{_needed(report)}"
    if report["winner"] == "best" and any(row["gain"] > 0 for row in report["candidates"]):
        return (
            "Every average that was better than the best checkpoint is worse than it on some validation set, so this "
            f"is that checkpoint, {_how_it_is(report)}."
        )
    if report["winner"] == "best":
        return (
            f"No average was better than the best checkpoint on the select split, so this is that checkpoint, "
            f"{_how_it_is(report)}.{_needed(report)}"
        )
    decided = f" {decided}" if decided else ""
    if gain["value"] == 0:
        return (
            f"This model has the same {words(metric['name'])} as the best checkpoint on the select split, with a lower "
            f"loss ({_select_loss(report, report['winner']):.4f} instead of {_select_loss(report, 'best'):.4f})."
            f"{decided}"
        )
    chance = "" if gain["low"] > 0 else f" The interval includes zero, so this may be chance.{_needed(report)}"
    return (
        f"This model is better than the best checkpoint: on the select split its {words(metric['name'])} is "
        f"{_compared(metric, gain['value'])} (95 % interval: {_interval(metric, gain['low'], gain['high'])})."
        f"{decided}{chance}"
    )


def _forecast(report: Mapping[str, Any]) -> list[str]:
    """What was expected, beside what came."""
    if "forecast" not in report:
        return []
    return [f"Forecast from the single checkpoints: {words(beside_gain(read(report)))}", ""]


def _counted(report: Mapping[str, Any]) -> str:
    choice = report.get("choice")
    if choice is None:
        return ""
    return (
        f", and holds for all candidates at once: it counts that the best of {choice['averages']} averages was picked "
        f"on the same examples"
    )


def _needed(report: Mapping[str, Any]) -> str:
    """How large a gain would have been seen, and how many examples would show the one that was measured."""
    told = needed_examples(read(report))
    return f" {words(told)}" if told else ""


def _how_it_is(report: Mapping[str, Any]) -> str:
    """Of the best checkpoint, which is the result."""
    weights = next(row["coefficients"][0] for row in report["candidates"] if row["method"] == "best")
    is_whole = not report["checkpoints"][weights.index(1.0)]["not_its_own"]
    return "unchanged" if is_whole else "but for the tensors below"


def _sets(report: Mapping[str, Any]) -> list[str]:
    """What each candidate is worth on each validation set that has a name."""
    sets, metric = report["validation_sets"], report["metric"]
    if not sets:
        return []
    judging = [f"{code(name)} ({each['weight']:.3g})" for name, each in sets.items() if each["weight"]]
    heads = ["method", "set", "examples", cell(metric["name"]), "against best", "95 % interval"]
    rows = [
        [
            cell(row["label"]),
            cell(name),
            str(sets[name]["select"]),
            f"{on_set['select'][metric['name']]:.4f}",
            *(["", ""] if row["method"] == "best" else _comparison(metric, on_set)),
        ]
        for row in report["candidates"]
        for name, on_set in row["sets"].items()
    ]
    return [
        "## Validation sets",
        f"What judges is the weighted mean over these sets, with the weight of each in brackets: {', '.join(judging)}. "
        f"The fit split consists of theirs, weighted alike.",
        "",
        *_markdown_table(heads, rows),
        "",
    ]


def _left_out(report: Mapping[str, Any]) -> list[str]:
    """What no average was made of, and which checkpoints could not be judged as they are."""
    taken, dropped = report["left_out"]["taken_from"], report["left_out"]["dropped"]
    if not taken and not dropped:
        return []
    strangers = [each["name"] for each in report["checkpoints"] if each["not_its_own"]]
    alone = "A single checkpoint was judged with its own."
    if strangers:
        alone = (
            f"A single checkpoint was judged with its own, but for {_some(strangers)}: there they are absent or have "
            f"another shape, so they were replaced by these."
        )
    return [
        "## Left out of the average",
        *[f"- {_some(names)}: from {code(source)}" for source, names in taken.items()],
        *([f"- {_some(dropped)}: not in this model"] if dropped else []),
        "",
        alone,
        "",
    ]


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(code(name) for name in names[:most]) + more


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def _statistics(chosen: Mapping[str, Any]) -> list[str]:
    """Nothing where there was nothing to choose."""
    losses, way = chosen["fit_loss"], chosen["mixtures"]
    if not losses:
        return []
    other = next(name for name in losses if name != way)
    return [
        f"BatchNorm's statistics of an average are {way}. So the mean of all checkpoints has a loss of "
        f"{_number(losses[way])} on the fit split, and of {_number(losses[other])} with {other} ones. They are "
        f"recomputed on {chosen['examples']} examples. A single checkpoint keeps its own.",
        "",
    ]


_LOAD_ADAPTER = (
    "from peft import PeftModel",
    "model = PeftModel.from_pretrained(base_model, folder)",
)


def _adapters(adapters: Mapping[str, Any] | None) -> list[str]:
    """What kind of adapter this is, and what its rank cuts off; nothing for whole models."""
    if adapters is None:
        return []
    base = f" of the base model {code(adapters['base'])}" if adapters["base"] else ""
    own = sorted(set(adapters["ranks"].values()))
    ranks = f"The adapters had rank {', '.join(map(str, own))}."
    lines = ["## Adapter", f"This is a LoRA adapter{base}. {ranks}"]
    if adapters["rank"] is not None:
        lines[-1] += (
            f" What they add to the weights was averaged, and is written with rank {adapters['rank']}: "
            f"{adapters['error']:.2%} of it is cut off (as a share of its norm, over all layers)."
        )
        rows = [[rank, f"{error:.2%}"] for rank, error in adapters["error_of_rank"].items()]
        lines += ["", *_markdown_table(["rank", "cut off"], rows)]
    return [*lines, ""]


def _number(loss: float | None) -> str:
    return "no number" if loss is None else f"{loss:.4f}"


def _compared(metric: Mapping[str, Any], gain: float) -> str:
    """`0.0120 higher`, `0.0878 lower`: a gain is positive when the model is better, which is a *lower* loss."""
    size = f"{abs(gain):.4f}"
    # A difference too small for the table keeps one digit of its own.
    size = size if float(size) or not gain else f"{abs(gain):.0e}"
    return f"{size} {'higher' if (gain >= 0) == metric['higher_is_better'] else 'lower'}"


def _interval(metric: Mapping[str, Any], low: float, high: float) -> str:
    if low == high == 0:
        return "equal"
    return f"{_compared(metric, low)} to {_compared(metric, high)}"


def _select_loss(report: Mapping[str, Any], method: str) -> float:
    values = [row["select"]["loss"] for row in report["candidates"] if row["method"] == method]
    return float(values[0])


def _table(report: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    """One row per candidate: its values on the select split, the comparison with the best, the fit split's value."""
    judging = report["metric"]
    names = [cell(metric) for metric in metrics]
    # Text is generated for the select split alone.
    on_fit = metrics[0] if all(metrics[0] in row["fit"] for row in report["candidates"]) else "loss"
    heads = ["method", *names, f"{names[0]} against best", "95 % interval", f"{cell(on_fit)}, fit split"]
    rows = []
    for row in report["candidates"]:
        mark = "**" if row["method"] == report["winner"] else ""
        cells = [
            f"{mark}{cell(row['label'])}{mark}",
            *(f"{row['select'][metric]:.4f}" for metric in metrics),
            *(["", ""] if row["method"] == "best" else _comparison(judging, row)),
            f"{row['fit'][on_fit]:.4f}",
        ]
        rows.append(cells)
    return _markdown_table(heads, rows)


def _comparison(metric: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    gain = _compared(metric, row["gain"]) if row["gain"] else "equal"
    return [gain, _interval(metric, row["gain_low"], row["gain_high"])]


def _warnings(report: Mapping[str, Any]) -> list[str]:
    if not report["warnings"]:
        return []
    return ["## Warnings", *[f"- {words(warning)}" for warning in report["warnings"]], ""]

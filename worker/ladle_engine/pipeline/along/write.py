"""The folder of a curve: no model, but all that says which ones there are, and enough to rebuild the best of them."""

from __future__ import annotations

from pathlib import Path

from ladle_engine.methods.context import MethodContext
from ladle_engine.output.folder import (
    COEFFICIENTS_FILE,
    CURVE_FILE,
    EVALUATIONS_FILE,
    FORMAT_VERSION,
    REPORT_FILE,
    STATISTICS_FILE,
)
from ladle_engine.pipeline.along.draw import Drawn
from ladle_engine.pipeline.along.earlier import write_evaluations
from ladle_engine.pipeline.candidates import Candidate
from ladle_engine.pipeline.report import (
    Run,
    coefficients_json,
    digests_in,
    inputs_json,
    report_json,
    sizes_in,
    write_json,
    write_page,
    write_statistics,
)


def write_curve(
    folder: Path,
    context: MethodContext,
    candidates: list[Candidate],
    winner: Candidate,
    run: Run,
    curve: Drawn,
) -> dict[str, int]:
    """Fills the existing, empty `folder`, and returns its files with their sizes in bytes."""
    inputs = inputs_json(context.checkpoints, run)
    write_statistics(folder, candidates)
    write_json(folder / COEFFICIENTS_FILE, coefficients_json(context, candidates, winner, inputs))
    about = {"format": FORMAT_VERSION, "higher_is_better": context.metric.higher_is_better}
    evaluations = write_evaluations(folder, curve.carried.models, curve.carried.depends_on)
    write_json(folder / CURVE_FILE, about | dict(curve.json) | {"evaluations": evaluations})
    digests = digests_in(folder, [CURVE_FILE, COEFFICIENTS_FILE, EVALUATIONS_FILE, STATISTICS_FILE])
    report = report_json(context, candidates, winner, run, digests, inputs)
    report |= {"kind": "curve", "merge_curve": dict(curve.json), "evaluated": curve.carried.to_json()}
    write_json(folder / REPORT_FILE, report)
    write_page(folder, context.on_event)
    return sizes_in(folder)

"""The folder of a curve: no model, but all that says which ones there are, and enough to rebuild the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle_engine.methods.context import MethodContext
from ladle_engine.output.folder import COEFFICIENTS_FILE, CURVE_FILE, FORMAT_VERSION, REPORT_FILE, STATISTICS_FILE
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
    curve: Mapping[str, Any],
) -> dict[str, int]:
    """Fills the existing, empty `folder`, and returns its files with their sizes in bytes."""
    inputs = inputs_json(context.checkpoints, run)
    write_statistics(folder, candidates)
    write_json(folder / COEFFICIENTS_FILE, coefficients_json(context, candidates, winner, inputs))
    about = {"format": FORMAT_VERSION, "higher_is_better": context.metric.higher_is_better}
    write_json(folder / CURVE_FILE, about | dict(curve))
    digests = digests_in(folder, [CURVE_FILE, COEFFICIENTS_FILE, STATISTICS_FILE])
    report = report_json(context, candidates, winner, run, digests, inputs)
    write_json(folder / REPORT_FILE, report | {"kind": "curve", "merge_curve": dict(curve)})
    write_page(folder, context.on_event)
    return sizes_in(folder)

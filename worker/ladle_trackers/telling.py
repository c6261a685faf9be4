"""What a job tells a tracker, made of its events and of its report: the same for all trackers.

Events may be the engine's or those of a job's stream, which have the same names and fields.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle_trackers.base import Cell, Tracker, Value, plain

MOST_ROWS, MOST_COLUMNS = 1000, 50
MOST_LINES = 50
"""Of coefficients over steps: a line for each checkpoint."""
CANDIDATES = ("method", "label", "metric", "value", "gain", "gain_low", "gain_high", "fit_value")


class Telling:
    """One job's. Every method may raise what the tracker raises."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._candidates: list[Any] = []

    def event(self, event: Any) -> None:
        """What has just happened. What no tracker shows is left out."""
        match type(event).__name__:
            case "StepDone":
                self._step(event)
            case "CandidateScored":
                self._candidate(getattr(event, "candidate", None) or event.score)
            case "CheckpointsFound":
                rows = [[index, name] for index, name in enumerate(event.names[:MOST_ROWS])]
                self._tracker.table("checkpoints", ("number", "checkpoint"), rows)
            case "MemoryPlanned":
                self._tracker.summary({"placement": event.placement, "precision": event.precision})

    def result(self, report: Mapping[str, Any], files: Sequence[Path], markdown: str) -> None:
        """What came out: `report` is the content of `report.json`."""
        for series, values, step in [*_training(report), *_merge_curve(report)]:
            self._numbers(series, values, step)
        if table := _coefficients(report):
            self._tracker.table("coefficients", *table)
        self._tracker.summary(_summary(report))
        self._tracker.report(markdown, files)

    def _step(self, event: Any) -> None:
        if event.loss is not None:
            series = "/".join(filter(None, (event.stage, event.method)))
            self._numbers(series, {"loss": event.loss}, event.step)

    def _candidate(self, candidate: Any) -> None:
        self._candidates.append(candidate)
        values = {f"select_{name}": value for name, value in candidate.select.items()}
        values |= {f"fit_{name}": value for name, value in candidate.fit.items()}
        values |= {name: getattr(candidate, name) for name in ("gain", "gain_low", "gain_high")}
        self._numbers(f"candidates/{candidate.method}", values, len(self._candidates))
        self._tracker.table("candidates", CANDIDATES, [_row(each) for each in self._candidates])

    def _numbers(self, series: str, values: Mapping[str, Any], step: float) -> None:
        finite = {name: float(value) for name, value in values.items() if _is_finite(value)}
        if finite:
            self._tracker.numbers("/".join(map(plain, series.split("/"))), finite, step)


def _row(candidate: Any) -> list[Cell]:
    metric = next(iter(candidate.select), "")
    gains = [getattr(candidate, name) for name in ("gain", "gain_low", "gain_high")]
    values = (candidate.select.get(metric), *gains, candidate.fit.get(metric))
    return [candidate.method, candidate.label, metric, *values]


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


Number = tuple[str, Mapping[str, Any], float]


def _training(report: Mapping[str, Any]) -> Iterator[Number]:
    """The coefficients of each method by step. The loss was told while it trained."""
    for method, training in _mapping(report.get("training")).items():
        names = _checkpoint_names(report)
        for step, row in zip(_list(training.get("steps")), _list(training.get("coefficients")), strict=False):
            labels = names if len(names) == len(row) else [str(index) for index in range(len(row))]
            yield f"coefficients/{method}", dict(zip(labels[:MOST_LINES], row, strict=False)), step


def _merge_curve(report: Mapping[str, Any]) -> Iterator[Number]:
    for index, point in enumerate(_list(_mapping(report.get("merge_curve")).get("points"))):
        step = point.get("step")
        values = {name: point.get(name) for name in ("alone", "average")}
        yield "merge_curve", values, step if _is_finite(step) else index


def _coefficients(report: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[Cell]]] | None:
    """Of the winner: a row for each checkpoint, a column for each group."""
    winner = next((each for each in _candidates(report) if each.get("method") == report.get("winner")), {})
    by_group, groups = _list(winner.get("coefficients")), _list(winner.get("groups"))
    names = _checkpoint_names(report)
    if not by_group or any(len(_list(row)) != len(names) for row in by_group):
        return None
    rows = zip(names[:MOST_ROWS], zip(*by_group[:MOST_COLUMNS], strict=True), strict=False)
    return ("checkpoint", *map(str, groups[:MOST_COLUMNS])), [[name, *row] for name, row in rows]


def _checkpoint_names(report: Mapping[str, Any]) -> list[str]:
    return [str(each.get("name")) for each in _list(report.get("checkpoints")) if isinstance(each, Mapping)]


def _candidates(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in _list(report.get("candidates")) if isinstance(each, Mapping)]


def _summary(report: Mapping[str, Any]) -> dict[str, Value]:
    """What people compare runs by."""
    metric, gain = str(_mapping(report.get("metric")).get("name")), _mapping(report.get("gain"))
    winner = next((each for each in _candidates(report) if each.get("method") == report.get("winner")), {})
    found: dict[str, Any] = {
        "winner": report.get("winner"),
        "task": report.get("task"),
        "metric": metric,
        "value": _mapping(winner.get("select")).get(metric),
        "gain": gain.get("value"),
        "gain_low": gain.get("low"),
        "gain_high": gain.get("high"),
        "num_checkpoints": len(_checkpoint_names(report)),
        "num_parameters": report.get("num_parameters"),
    }
    return {name: value for name, value in found.items() if isinstance(value, str) or _is_finite(value)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

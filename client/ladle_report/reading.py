"""A `report.json` as the sections read it: every text safe to show, old reports and absent keys included."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from ladle_report.limits import FULL, Limits
from ladle_report.safe_text import one_line

_SUFFIX = re.compile(r"\.(safetensors|pt|pth|bin|ckpt|pth\.tar|tar)$", re.IGNORECASE)

MOST_CANDIDATES = 500
MOST_OF_A_SIDE = 64
"""Of the plane, and points of a segment. Drawing more takes minutes; Ladle writes far less, but the file may be
anybody's."""


class NotAReport(ValueError):
    """It is not what Ladle writes."""


@dataclass(frozen=True)
class Report:
    """One report, with how much of it may be shown."""

    json: Mapping[str, Any]
    """With its texts made safe: see `read`."""
    limits: Limits = FULL
    folder: str | None = None
    """Where the result is, if it is not where the page is."""

    @property
    def metric(self) -> str:
        """The metric that judged."""
        return str(self.json["metric"]["name"])

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the metric is better."""
        return bool(self.json["metric"]["higher_is_better"])

    @property
    def is_curve(self) -> bool:
        """Whether it is of a merge curve, which has no model."""
        return self.json.get("kind") == "curve"

    @property
    def winner(self) -> Mapping[str, Any]:
        """The candidate that became the result."""
        return self.candidate(str(self.json["winner"]))

    @property
    def best(self) -> Mapping[str, Any]:
        """The best single checkpoint, which every candidate is compared with."""
        return self.candidate("best")

    @property
    def candidates(self) -> Sequence[Mapping[str, Any]]:
        """In the order in which they were judged."""
        return list(self.json["candidates"])

    def candidate(self, method: str) -> Mapping[str, Any]:
        """That of a method."""
        return next(row for row in self.candidates if row["method"] == method)

    @cached_property
    def names(self) -> list[str]:
        """Of the checkpoints, in their order."""
        return [str(each["name"]) for each in self.json["checkpoints"]]

    @cached_property
    def labels(self) -> list[str]:
        """The names without what all files have: `step-100`. Only where they stay different."""
        plain = [_SUFFIX.sub("", name) for name in self.names]
        return plain if len(set(plain)) == len(plain) else self.names

    @cached_property
    def steps(self) -> list[float] | None:
        """Of the checkpoints, if they are a run: one for each, rising."""
        steps = [each.get("step") for each in self.json["checkpoints"]]
        known = [float(step) for step in steps if isinstance(step, (int, float)) and math.isfinite(step)]
        is_run = len(known) == len(steps) and all(a < b for a, b in pairwise(known))
        return known if is_run else None

    @property
    def places(self) -> list[float]:
        """Where each checkpoint stands on an axis: its step, or its number."""
        return self.steps or [float(number) for number in range(1, len(self.names) + 1)]

    @property
    def axis(self) -> str:
        """What that axis counts."""
        return "step of the training" if self.steps else "number of the checkpoint"

    @property
    def ticks(self) -> list[str]:
        """The shortest name of each checkpoint: its step, or its number."""
        return (
            [f"{place:,.0f}" for place in self.steps] if self.steps else [f"#{n + 1}" for n in range(len(self.names))]
        )

    def label_of(self, name: str) -> str:
        """The label of a checkpoint that something else names."""
        return self.labels[self.names.index(name)] if name in self.names else name

    def part(self, name: str) -> Mapping[str, Any]:
        """A key of the report that older ones have not: empty then."""
        found = self.json.get(name)
        return found if isinstance(found, Mapping) else {}


def read(report: Mapping[str, Any], limits: Limits = FULL, folder: str | None = None) -> Report:
    """Raises `NotAReport` for what has not even the parts that the first reports had."""
    found = Report(_safe(report), limits, folder)
    try:
        if not (found.winner["select"] and found.best["select"] and found.names and found.metric):
            raise NotAReport
        float(found.json["gain"]["value"]), int(found.json["splits"]["select"])
        if _is_too_large(found):
            raise NotAReport
    except (AttributeError, KeyError, TypeError, ValueError, StopIteration, RuntimeError) as error:
        raise NotAReport("This is not a `report.json` that Ladle wrote.") from error
    return found


def _is_too_large(report: Report) -> bool:
    diagnosis = report.part("diagnosis")
    plane = diagnosis.get("plane") or {}
    rows = plane.get("loss", ())
    sides = [plane.get("x", ()), plane.get("y", ()), rows, *rows]
    sides += [each[name] for each in diagnosis.get("segments", ()) for name in ("t", "loss")]
    return len(report.candidates) > MOST_CANDIDATES or any(len(side) > MOST_OF_A_SIDE for side in sides)


def _safe(value: Any) -> Any:
    """Names of checkpoints, tensors and labels are what others chose."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, (float, int)):
        return value
    if isinstance(value, Mapping):
        return {one_line(str(key)): _safe(each) for key, each in value.items()}
    return [_safe(each) for each in value] if isinstance(value, (list, tuple)) else value

"""Evaluates what a diagnosis needs, after the winner is known: it decides nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ladle_engine.coefficients import Coefficients
from ladle_engine.methods.context import MethodContext
from ladle_engine.pipeline.candidates import Candidate
from ladle_engine.pipeline.diagnosis.basins import Height, basins, height
from ladle_engine.pipeline.diagnosis.losses import Loss, Measure
from ladle_engine.pipeline.diagnosis.plane import SIDE, Plane, grid, is_placeable, plane_through
from ladle_engine.pipeline.diagnosis.verdict import Found, verdict
from ladle_engine.pipeline.merge_curve import first_ones
from ladle_engine.progress import Pace

MOST_COMPARED = 12
"""Checkpoints, spaced evenly along the run; the best one besides."""
INSIDE = (0.25, 0.5, 0.75)
"""Where a segment is looked at, between its ends."""
MIDDLE_FIRST = (0.5, 0.25, 0.75)
"""Barriers are highest near the middle: most are found there."""


def diagnose(context: MethodContext, candidates: Sequence[Candidate], winner: Candidate) -> dict[str, Any]:
    """Collective. At most 25 models on the select split, and some 250 on the first round of the fit split.

    Returns the entry `diagnosis` of the report. What is evaluated on the select split is known to `context` then.
    """
    compared = chosen(len(context.checkpoints.names), _best(candidates))
    count = len(compared)
    expected = 2 * count + 1 + (1 + len(INSIDE)) * count + len(INSIDE) * (count - 1) + SIDE**2
    measure = Measure(context=context, pace=Pace(context.on_event, "diagnose", expected))
    measure.on_select([context.one_checkpoint(index) for index in compared])
    measure.on_select([first_ones(context, index + 1) for index in compared])
    found = {"examples": measure.examples, "loss": context.loss.name}
    found |= _Between(context=context, measure=measure, compared=compared).to_json(winner)
    found |= {"plane": _plane_json(context, measure, candidates, winner)}
    measure.finish()
    context.evaluations.save()
    return found


def chosen(count: int, best: int) -> list[int]:
    """The checkpoints that are compared: all where they are few, else some from the first to the last, and the best."""
    if count <= MOST_COMPARED:
        return list(range(count))
    evenly = {round(number * (count - 1) / (MOST_COMPARED - 1)) for number in range(MOST_COMPARED)}
    return sorted(evenly | {best})


def _best(candidates: Sequence[Candidate]) -> int:
    index = candidates[0].choice.coefficients.single()
    assert index is not None, "`best` runs first and picks one checkpoint"
    return index


@dataclass(kw_only=True)
class _Between:
    """The straight lines from the centre to the checkpoints and between checkpoints."""

    context: MethodContext
    measure: Measure
    compared: Sequence[int]
    _losses: dict[int, Loss] = field(default_factory=dict)
    _highest: dict[tuple[int, int], Height] = field(default_factory=dict)
    """Of the pairs that were looked at: a barrier, or the highest point."""

    def to_json(self, winner: Candidate) -> dict[str, Any]:
        segments = self._segments()
        distances = self.context.geometry.distances_KK()
        found = basins(
            self.compared,
            [self._losses[index] for index in self.compared],
            lambda one, other: float(distances[one, other]),
            self._parted,
        )
        weights = winner.choice.coefficients.own_KG.mean(dim=1).tolist()
        found.sort(key=lambda basin: (-sum(abs(weights[index]) for index in basin), -len(basin), basin[0]))
        names = self.context.checkpoints.names
        return {
            "segments": segments,
            "pairs": self._pairs_json(),
            "basins": [[names[index] for index in basin] for basin in found],
            "verdict": verdict(
                Found(
                    names=names,
                    compared=self.compared,
                    basins=found,
                    rises=[self._rise(found[0], basin) for basin in found[1:]],
                    weights=weights,
                    winner=winner.method,
                )
            ),
        }

    def _segments(self) -> list[dict[str, Any]]:
        """From the centre to each checkpoint."""
        centre = self.measure.loss(self._mixture({}))
        mixtures = [self._mixture({index: t}) for index in self.compared for t in (*INSIDE, 1.0)]
        losses = self.measure.losses(mixtures)
        found = []
        for number, index in enumerate(self.compared):
            *inside, end = losses[number * (len(INSIDE) + 1) : (number + 1) * (len(INSIDE) + 1)]
            self._losses[index] = end
            heights = [height(centre, end, t, between) for t, between in zip(INSIDE, inside, strict=True)]
            found.append(
                {
                    "checkpoint": self.context.checkpoints.names[index],
                    "t": [0.0, *INSIDE, 1.0],
                    "loss": [each.to_json() for each in (centre, *inside, end)],
                    **_height_json(max(heights, key=lambda each: each.value)),
                }
            )
        return found

    def _mixture(self, shares: dict[int, float]) -> Coefficients:
        """These shares of single checkpoints, and the centre's for the rest."""
        K = len(self.context.checkpoints.names)
        alpha_K = torch.full((K,), (1 - sum(shares.values())) / K, dtype=torch.float64)
        for index, share in shares.items():
            alpha_K[index] += share
        return self.context.coefficients(alpha_K)

    def _parted(self, one: int, other: int) -> bool:
        """Collective: whether a barrier lies between two checkpoints."""
        start, end = self._losses[one], self._losses[other]
        heights = []
        for t in MIDDLE_FIRST:
            between = self.measure.loss(self._mixture({one: 1 - t, other: t}))
            heights.append(height(start, end, t, between))
            if heights[-1].is_barrier:
                self._highest[one, other] = heights[-1]
                return True
        self._highest[one, other] = max(heights, key=lambda each: each.value)
        return False

    def _rise(self, main: Sequence[int], basin: Sequence[int]) -> float:
        """The highest known point between two basins."""
        pairs = [pair for pair in self._highest if set(pair) & set(main) and set(pair) & set(basin)]
        # Both may have been compared with a third one alone.
        pairs = pairs or [pair for pair in self._highest if set(pair) & set(basin)]
        return max(self._highest[pair].value for pair in pairs)

    def _pairs_json(self) -> list[dict[str, Any]]:
        names = self.context.checkpoints.names
        return [
            {"checkpoints": [names[one], names[other]], **_height_json(highest), "parted": highest.is_barrier}
            for (one, other), highest in self._highest.items()
        ]


def _height_json(highest: Height) -> dict[str, Any]:
    """Null for a loss that is not finite; 0 where there is no barrier."""
    barrier = max(highest.value, 0.0) if math.isfinite(highest.value) else None
    return {"barrier": barrier, "noise": highest.noise}


def _plane_json(
    context: MethodContext, measure: Measure, candidates: Sequence[Candidate], winner: Candidate
) -> dict[str, Any] | None:
    """None where all results lie on one line."""
    by_name = {
        "best": candidates[0].choice.coefficients,
        "uniform": first_ones(context, len(context.checkpoints.names)),
    }
    plane, third = _plane(context, by_name, candidates, winner)
    if plane is None:
        return None
    if is_placeable(winner.choice.coefficients):
        by_name["winner"] = winner.choice.coefficients
    if third in (each.method for each in candidates):
        by_name[third] = next(each.choice.coefficients for each in candidates if each.method == third)
    points = {name: plane.coordinates(each) for name, each in by_name.items()}
    of_checkpoints = dict(zip(context.checkpoints.names, plane.coordinates_of_checkpoints(), strict=True))
    xs, ys = grid([*points.values(), *(point for name, point in of_checkpoints.items() if name == third)])
    losses = measure.losses([plane.at(x, y) for y in ys for x in xs])
    return {
        "x": xs,
        "y": ys,
        "loss": [[each.to_json() for each in losses[row * SIDE : (row + 1) * SIDE]] for row in range(SIDE)],
        "unit": "distance in the weights",
        "points": points,
        "third": third,
        "checkpoints": of_checkpoints,
    }


def _plane(
    context: MethodContext, by_name: Mapping[str, Coefficients], candidates: Sequence[Candidate], winner: Candidate
) -> tuple[Plane | None, str]:
    """Through best, uniform and the winner or, where that lies on their line, the best other candidate, or a
    checkpoint; with the name of that one, which is `winner` for the winner."""
    ranked = sorted(candidates, key=lambda each: each.judged.select.rank_key(context.metric), reverse=True)
    thirds = [("winner", winner.choice.coefficients), *((each.method, each.choice.coefficients) for each in ranked)]
    thirds += [(name, context.one_checkpoint(index)) for index, name in enumerate(context.checkpoints.names)]
    for name, third in thirds:
        if is_placeable(third):
            plane = plane_through(context.geometry, by_name["uniform"], by_name["best"], third)
            if plane is not None:
                return plane, name
    return None, ""

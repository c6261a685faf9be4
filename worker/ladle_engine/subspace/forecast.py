"""What averaging is expected to bring, before any average is made: a line through features of a few distances.

A feature is the logarithm of a ratio, so that it does not depend on a model's size or units. The line was fitted by
`benchmarks/forecast.py` over many small sets of checkpoints, and its numbers stand in `forecast_fit.json`; nobody types
them. docs/forecast.md says what each feature means, and how wrong the line was on data that it had not seen.

K checkpoints, in their order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ladle_engine.subspace.geometry import DUPLICATE

FIT_FILE = "forecast_fit.json"
FEWEST = 4
"""Checkpoints: of fewer, early and late cannot be told apart."""
OF_DISTANCES = ("slowing", "noise", "size")
OF_LOSSES = ("lead", "falling")
EDGE = 0.05
"""The scale of `bent`, as a share of the loss: gains are told apart by their ratio above it, and by their difference
below."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of checkpoints before any average of them."""

    distances_KK: Tensor
    """`|w_i - w_j|`"""
    centre_norm: float
    """`|c|`"""
    steps: Sequence[float | None] = ()
    """Not known where it is in doubt what follows what."""
    losses: Sequence[float] | None = None
    """Of each checkpoint alone, all on the same examples."""


def features_of(seen: Seen) -> dict[str, float] | None:
    """Name -> value; those of losses only where these are known. None of fewer than `FEWEST` checkpoints, or of copies
    alone.

    - slowing: how much longer a move between neighbours is in the last third than in the first, per square root of a
      step. It falls with the learning rate.
    - noise: neighbours' mean square distance, of that of all pairs. 0 where checkpoints lie at random around one
      point, below it where they travel.
    - size: the root mean square distance from the centre, of the centre's length.
    - lead: the median loss, of the lowest.
    - falling: the mean loss of the last third, of that of the first.
    """
    K = len(seen.distances_KK)
    longest = float(seen.distances_KK.max()) if K else 0.0
    if K < FEWEST or not 0 < longest < math.inf or not 0 < seen.centre_norm < math.inf:
        return None
    squared_KK = seen.distances_KK.double().clamp(min=DUPLICATE * longest).square()
    moves = squared_KK.diagonal(1)
    rates = moves / torch.tensor(_gaps(seen.steps, K), dtype=torch.float64)
    pairs = squared_KK.triu(diagonal=1).sum() / (K * (K - 1) / 2)
    third = max(1, (K - 1) // 3)
    found = {
        "slowing": 0.5 * float((rates[-third:].mean() / rates[:third].mean()).log()),
        "noise": float((moves.mean() / pairs).log()),
        # The mean square distance of all pairs is 2 K / (K - 1) times that from the centre.
        "size": 0.5 * math.log(float(pairs) * (K - 1) / (2 * K)) - math.log(seen.centre_norm),
    }
    return found | _of_losses(seen.losses)


def _gaps(steps: Sequence[float | None], K: int) -> list[float]:
    """Steps between neighbours, of their mean; all equal where the steps are not known, or do not rise."""
    if not _rises(steps, K):
        return [1.0] * (K - 1)
    gaps = [after - before for before, after in pairwise(_known(steps))]
    return [gap * len(gaps) / sum(gaps) for gap in gaps]


def _rises(steps: Sequence[float | None], K: int) -> bool:
    known = _known(steps)
    return len(known) == K and all(before < after for before, after in pairwise(known))


def _known(steps: Sequence[float | None]) -> list[float]:
    return [step for step in steps if step is not None]


def _of_losses(losses: Sequence[float] | None) -> dict[str, float]:
    if losses is None or not all(math.isfinite(loss) and loss > 0 for loss in losses):
        return {}
    loss_K = torch.tensor(list(losses), dtype=torch.float64)
    third = max(1, len(loss_K) // 3)
    return {
        "lead": float((loss_K.quantile(0.5) / loss_K.min()).log()),
        "falling": float((loss_K[-third:].mean() / loss_K[:third].mean()).log()),
    }


def bent(gain: float) -> float:
    """The scale on which the line is straight: `gain` is the logarithm of the best checkpoint's loss, of the result's.

    Nearly linear below `EDGE`, nearly a logarithm above: an error of one point counts more where two are gained than
    where thirty are.
    """
    return math.asinh(gain / EDGE)


def straightened(value: float) -> float:
    """The gain again."""
    return EDGE * math.sinh(value)


def as_share(gain: float) -> float:
    """By which share the loss is lower."""
    return 1 - math.exp(-gain)


@cache
def fitted() -> Mapping[str, Any]:
    """What `benchmarks/forecast.py` has written."""
    found: Mapping[str, Any] = json.loads((files(__package__) / FIT_FILE).read_text())
    return found


def line(form: Mapping[str, Any], features: Mapping[str, float]) -> float:
    """The value of a fitted line, on the scale of `bent`. A feature beyond all that were seen counts as the last of
    them."""
    value = float(form["constant"])
    for name, term in form["terms"].items():
        low, high = term["seen"]
        value += term["slope"] * (min(max(features[name], low), high) - term["mean"])
    return value


def forecast(seen: Seen) -> dict[str, Any] | None:
    """What the result of `auto` and the plain mean of all are expected to gain over the best single checkpoint:
    `forecast` of a report and of an inspection. None where nothing can be told: see `features_of`."""
    features = features_of(seen)
    if features is None:
        return None
    fit = fitted()
    decayed = fit["decayed"]
    return {
        **{target: _expected(forms, features) for target, forms in fit["targets"].items()},
        "sets": fit["sets"],
        "families": len(fit["families"]),
        # Without steps that rise, neighbours need not follow each other in a training.
        "decayed": _rises(seen.steps, len(seen.distances_KK)) and features["slowing"] < decayed["below"],
        "gains_of_decayed": decayed["gains"],
        "features": features,
    }


def _expected(forms: Sequence[Mapping[str, Any]], features: Mapping[str, float]) -> dict[str, Any]:
    """By the best form of those that were offered, of which all features are known; the last one needs none."""
    form = next(each for each in forms if each["terms"].keys() <= features.keys())
    value = line(form, features)
    low, high = (as_share(straightened(value + edge)) for edge in form["spread"])
    return {
        "lower": as_share(straightened(value)),
        "low": low,
        "high": high,
        "goes_by": list(form["terms"]),
        "error_points": form["error_points"],
        "covered": form["covered"],
        "beyond": [name for name, term in form["terms"].items() if not _within(features[name], term["seen"])],
    }


def _within(value: float, seen: Sequence[float]) -> bool:
    low, high = seen
    return low <= value <= high

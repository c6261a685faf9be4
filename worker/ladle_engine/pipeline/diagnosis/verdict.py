"""What a diagnosis says in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_BASINS = 3
"""Other basins that are told of one by one."""
MOST_NAMES = 4
NO_WEIGHT = 0.005
"""A coefficient below it is as good as none."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What there is to tell of. Checkpoints stand here by their index."""

    names: Sequence[str]
    """Of all checkpoints."""
    compared: Sequence[int]
    """Those that were looked at."""
    basins: Sequence[Sequence[int]]
    """Of those, the main one first."""
    rises: Sequence[float]
    """For each other basin: how far the loss on the way to the main one is above the average of both ends."""
    weights: Sequence[float]
    """What the winner gives each checkpoint, as the mean over its groups."""
    winner: str
    """Its method."""


def verdict(found: Found) -> str:
    """One to a few sentences."""
    number, total = len(found.compared), len(found.names)
    some = "" if number == total else f"{number} of {total} checkpoints were compared. "
    if len(found.basins) == 1:
        they_all = "They all" if some else "Both checkpoints" if total == 2 else f"All {total} checkpoints"
        return (
            f"{some}{they_all} lie in one basin: on the way from one to another the loss is nowhere above the average "
            f"of both ends by more than noise."
        )
    if len(found.basins) == number > 2:
        return (
            f"{some}No two checkpoints lie in one basin: on the way from one to another the loss is above the average "
            f"of both ends. Averages of them cannot be expected to help."
        )
    _, *others = found.basins
    told = [_of_basin(found, *each) for each in zip(others[:MOST_BASINS], found.rises, strict=False)]
    if rest := sum(len(basin) for basin in others[MOST_BASINS:]):
        told.append(f"{rest} more are in {len(others) - MOST_BASINS} further basins.")
    return some + " ".join(told)


def _of_basin(found: Found, basin: Sequence[int], rise: float) -> str:
    lie, they, get = ("lies", "It", "gets") if len(basin) == 1 else ("lie", "They", "get")
    how = f"is {rise:.3g} above the average of both ends" if math.isfinite(rise) else "is not finite"
    weights = [found.weights[index] for index in basin]
    is_none = all(abs(weight) < NO_WEIGHT for weight in weights)
    share = "no weight" if is_none else f"{100 * sum(weights):.0f} % of the weight"
    return (
        f"{_subject(found, basin)} {lie} in another basin: on the way to the others the loss {how}. "
        f"{they} {get} {share} in `{found.winner}`."
    )


def _subject(found: Found, basin: Sequence[int]) -> str:
    quoted = [f"`{found.names[index]}`" for index in basin]
    first = list(found.compared).index(basin[0])
    if len(basin) > 2 and list(found.compared[first : first + len(basin)]) == list(basin):
        return f"The {len(basin)} checkpoints from {quoted[0]} to {quoted[-1]}"
    if len(quoted) > MOST_NAMES:
        quoted = [*quoted[: MOST_NAMES - 1], f"{len(quoted) - MOST_NAMES + 1} more"]
    return " and ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))

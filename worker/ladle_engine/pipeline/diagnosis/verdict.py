"""What a diagnosis says in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_BASINS = 3
"""Other basins that are told of one by one."""
MOST_NAMES = 4
NO_WEIGHT = 0.005
"""A coefficient below it is as good as none."""


def verdict(
    names: Sequence[str], compared: Sequence[int], basins: Sequence[Sequence[int]], rises: Sequence[float],
    weights: Sequence[float], winner: str,
) -> str:  # fmt: skip
    """One to a few sentences.

    Args:
        names: of all checkpoints.
        compared: those that were looked at.
        basins: of those, the main one first.
        rises: for each other basin, by how much the loss rises on the way to the main one.
        weights: what the winner gives each checkpoint, as the mean over its groups.
        winner: its method.
    """
    some = "" if len(compared) == len(names) else f"{len(compared)} of {len(names)} checkpoints were compared. "
    if len(basins) == 1:
        return (
            f"{some}{'They all' if some else f'All {len(names)} checkpoints'} lie in one basin: on the straight lines "
            f"between them the loss rises by no more than noise."
        )
    if len(basins) == len(compared) > 2:
        return (
            f"{some}No two checkpoints lie in one basin: on the straight lines between them the loss rises. Averages of "
            f"them cannot be expected to help."
        )
    main, *others = basins
    told = [
        _of_basin(names, compared, basin, rise, weights, winner)
        for basin, rise in zip(others[:MOST_BASINS], rises, strict=False)
    ]
    rest = sum(len(basin) for basin in others[MOST_BASINS:])
    if rest:
        told.append(f"{rest} more are in {len(others) - MOST_BASINS} further basins.")
    return some + " ".join(told)


def _of_basin(
    names: Sequence[str], compared: Sequence[int], basin: Sequence[int], rise: float, weights: Sequence[float],
    winner: str,
) -> str:  # fmt: skip
    lie, they, get = ("lies", "It", "gets") if len(basin) == 1 else ("lie", "They", "get")
    how = f"rises by {rise:.3g}" if math.isfinite(rise) else "is not finite"
    if all(abs(weights[index]) < NO_WEIGHT for index in basin):
        share = "no weight"
    else:
        share = f"{sum(weights[index] for index in basin):.0%} of the weight"
    return (
        f"{_subject(names, compared, basin)} {lie} in another basin: on the straight line to the others the loss "
        f"{how}. {they} {get} {share} in `{winner}`."
    )


def _subject(names: Sequence[str], compared: Sequence[int], basin: Sequence[int]) -> str:
    first = list(compared).index(basin[0])
    if len(basin) > 2 and list(compared[first : first + len(basin)]) == list(basin):
        return f"The {len(basin)} checkpoints from `{names[basin[0]]}` to `{names[basin[-1]]}`"
    quoted = [f"`{names[index]}`" for index in basin]
    if len(quoted) > MOST_NAMES:
        quoted = [*quoted[: MOST_NAMES - 1], f"{len(quoted) - MOST_NAMES + 1} more"]
    return " and ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))

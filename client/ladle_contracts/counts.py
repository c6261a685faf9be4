"""What workers count for the service's `/metrics`: names in the hash `ladle:counts`, which only grow."""

from __future__ import annotations

STAGES = frozenset(
    {"fetch", "discover", "check", "evaluate", "diagnose", "train", "select", "write", "verify", "upload"}
)
"""Ranks say what their stages are called, and ranks may be anybody's: others are counted as `other`."""
STAGE_BOUNDS_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
"""Of the histogram: each duration is counted at the first bound that it does not exceed."""
OTHER = "other"


def stage_took(stage: str, seconds: float) -> dict[str, float]:
    """One stage that has ended."""
    name = stage if stage in STAGES else OTHER
    bound = next((bound for bound in STAGE_BOUNDS_S if seconds <= bound), "+Inf")
    return {f"stage {name} {bound}": 1, f"stage {name} sum": round(seconds, 3)}


def add_up(counts: list[dict[str, float]]) -> dict[str, float]:
    """All of them together."""
    total: dict[str, float] = {}
    for each in counts:
        for name, more in each.items():
            total[name] = total.get(name, 0) + more
    return total

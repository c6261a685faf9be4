"""Checkpoints whose names say that they should not be averaged with each other."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from ladle_engine.checkpoints.name_parts import words_of
from ladle_engine.errors import CheckpointError

RANK = re.compile(r"(?<![^\W_])(?:rank[-_=]?|consolidated\.)([0-9]+)", re.IGNORECASE)
AVERAGES = frozenset({"ema", "swa"})


def refuse_parts(names: Sequence[str]) -> None:
    """Raises `CheckpointError` (mismatched-checkpoints) for files of rank 0, 1 ... that are otherwise named the same.

    The ranks' files are parts of one model then, or copies; copies are left out before.
    """
    ranks: dict[str, dict[int, str]] = defaultdict(dict)
    for name in names:
        if found := RANK.search(name):
            ranks[name[: found.start()] + name[found.end() :]][int(found[1])] = name
    for parts in ranks.values():
        # A sweep over LoRA's rank has no 0.
        if len(parts) > 1 and set(parts) == set(range(len(parts))):
            raise CheckpointError(
                "mismatched-checkpoints",
                f"Each checkpoint must be a whole model, but `{parts[0]}` and `{parts[1]}` are parts of one, by the "
                f"ranks in their names. Gather the weights before you save them. If each is whole, choose one rank "
                f"with `pattern=`.",
            )


def mixed_averages(names: Sequence[str]) -> tuple[str, ...]:
    """A warning where some are averages that were made while training, and others are not."""
    averages = [name for name in names if words_of(name) & AVERAGES]
    if not averages or len(averages) == len(names):
        return ()
    more = f" and {len(averages) - 1} more" if len(averages) > 1 else ""
    is_are = "are averages" if more else "is an average"
    return (
        f"`{averages[0]}`{more} {is_are} (EMA or SWA) by name, and the other checkpoints are not. "
        f"`exclude=` leaves one kind out.",
    )

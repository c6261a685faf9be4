"""Checkpoints whose names say that they should not be averaged with each other."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from ladle_engine.checkpoints.name_parts import UNTRAINED_WORDS, names_an_average, words_of
from ladle_engine.errors import CheckpointError

RANK = re.compile(r"(?<![^\W_])(?:rank[-_=]?|consolidated\.)([0-9]+)", re.IGNORECASE)

AVERAGE, UNTRAINED = "an average by its name", "from before training by its name"


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


def unlike_by_name(names: Sequence[str]) -> tuple[str, ...]:
    """Warnings where some are averages that were made while training or afterwards, or weights from before training,
    and the others are not."""
    return (
        *_some(names, AVERAGE, "averages by their names"),
        *_some(names, UNTRAINED, "from before training by their names"),
    )


def told_by_name(name: str) -> str | None:
    """The same of one name, in a few words."""
    if names_an_average(name):
        return AVERAGE
    return UNTRAINED if words_of(name.rpartition("/")[2]) & UNTRAINED_WORDS else None


def _some(names: Sequence[str], one: str, several: str) -> tuple[str, ...]:
    found = [name for name in names if told_by_name(name) == one]
    if not found or len(found) == len(names):
        return ()
    told = f"`{found[0]}` is {one}" if len(found) == 1 else f"`{found[0]}` and {len(found) - 1} more are {several}"
    it = "it is used as one more checkpoint" if len(found) == 1 else "they are used as checkpoints too"
    return (f"{told}, and the other checkpoints are not; {it}. `exclude=` leaves one kind out.",)

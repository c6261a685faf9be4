"""Which checkpoints are finished, and whether it is time for the next average: decisions only, without any I/O."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ladle.watching.looks import Files, finished_at
from ladle_contracts import Inspection

FEWEST = 2
"""An average of one checkpoint is that checkpoint."""
MOST_GLOBS, MOST_GLOB_CHARS = 100, 500
"""Of `checkpoints.exclude`."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What an average would be made of now."""

    taken: Mapping[str, float] = field(default_factory=dict)
    """Finished checkpoint -> when its files last changed; in order."""
    steps: tuple[int | float, ...] | None = None
    """Of all of them. None where not each of them has one."""
    last_step: int | float | None = None
    left_out: tuple[str, ...] = ()
    """Checkpoints that are being written, or cannot be used."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Checkpoint that nobody writes any more -> why it cannot be used."""

    def filters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`checkpoints` of a job that takes these and, whatever is written meanwhile, nothing else.

        Without steps, what appears while the job starts would be taken too.
        """
        excluded = given.get("exclude") or []
        globs = [excluded] if isinstance(excluded, str) else list(excluded)
        escaped = [each for each in map(glob.escape, self.left_out) if len(each) <= MOST_GLOB_CHARS]
        filters = {**given, "exclude": [*globs, *escaped][:MOST_GLOBS]}
        return filters if self.steps is None else {**filters, "steps": list(self.steps)}


def ready_of(inspection: Inspection, before: Files, now: Files) -> Ready:
    """`before` and `now` are two looks, from the time before the inspection."""
    at = {row.name: finished_at(row.name, row.num_files, before, now) for row in inspection.checkpoints}
    usable = [row for row in inspection.checkpoints if row.usable and row.duplicate_of is None]
    # Where there are too few, none is taken.
    rows = [row for row in usable if row.taken] or usable[: FEWEST - 1]
    taken = {row.name: time for row in rows if (time := at[row.name]) is not None}
    steps = list(dict.fromkeys(row.step for row in rows if row.name in taken))
    unusable = {row.name: row.problem.message for row in inspection.checkpoints if row.problem is not None}
    return Ready(
        taken=taken,
        steps=None if None in steps else tuple(step for step in steps if step is not None),
        last_step=steps[-1] if steps else None,
        left_out=(*(row.name for row in rows if row.name not in taken), *unusable),
        problems={name: message for name, message in unusable.items() if at[name] is not None},
    )


def is_due(ready: Ready, averaged: Mapping[str, float], attempted: Mapping[str, float], every: int) -> bool:
    """Whether it is time for an average. `averaged` are those of the last point, `attempted` those of the last job."""
    new = [name for name, changed in ready.taken.items() if averaged.get(name) != changed]
    return len(ready.taken) >= FEWEST and len(new) >= every and ready.taken != attempted

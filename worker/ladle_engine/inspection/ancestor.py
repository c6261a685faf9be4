"""The checkpoints' base, as an inspection tells of it: whether it is there, goes with them, and how far it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet
from ladle_engine.errors import EngineError
from ladle_engine.far_names import in_far_names
from ladle_engine.inspection.look import problem_of
from ladle_engine.inspection.types import InspectedBase, Problem
from ladle_engine.paths import PathLike
from ladle_engine.pipeline.ancestor import FIND, base_is, with_ancestor
from ladle_engine.storage.boundary import status


@dataclass
class Ancestor:
    """What was given as `base`."""

    given: PathLike
    problem: Problem | None = field(default=None, init=False)
    """Why it cannot be the base, as far as headers say."""

    def join(self, found: CheckpointSet, find_without: FIND) -> CheckpointSet:
        """The set with its base or, where that cannot be, without one; in both cases the base is none of the
        checkpoints."""
        without = found

        def remembered(names: Sequence[str]) -> CheckpointSet:
            nonlocal without
            without = find_without(names)
            return without

        self.problem = None
        try:
            return with_ancestor(found, self.given, remembered)
        except (EngineError, OSError) as error:
            self.problem = problem_of(error)
            return without

    def refuse_checkpoint(self, found: CheckpointSet, distances: Sequence[float]) -> None:
        """Where weights were read: a base that holds those of a checkpoint is refused, as by a job."""
        same = next((name for name, far in zip(found.names, distances, strict=False) if not far), None)
        if found.base is not None and same is not None:
            self.problem = problem_of(base_is(found.base.name, same))

    def told(self, found: CheckpointSet | None, distances: tuple[float, ...]) -> InspectedBase:
        """The row of it."""
        base = None if found is None else found.base
        if base is None:
            return InspectedBase(name=in_far_names(os.fspath(self.given)), problem=self.problem)
        return InspectedBase(name=base.name, size_bytes=_size(base), problem=self.problem, distances=distances)


def _size(base: Checkpoint) -> int:
    return sum(status(path).st_size for path in base.files)

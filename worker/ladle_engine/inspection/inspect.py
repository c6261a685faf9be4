"""The door: what is in a folder of checkpoints, and what `average` would do with it."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.architectures import unlike_reference
from ladle_engine.checkpoints.check import check_names
from ladle_engine.checkpoints.discover import discover
from ladle_engine.checkpoints.filters import Filters
from ladle_engine.checkpoints.folder_scan import scan
from ladle_engine.checkpoints.order import arrange
from ladle_engine.checkpoints.readers import keeping_files_open
from ladle_engine.checkpoints.sources import sources_of
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import EngineError
from ladle_engine.inspection.copies import Copies
from ladle_engine.inspection.look import Look, Looks, problem_of
from ladle_engine.inspection.plan import Planner, Wishes
from ladle_engine.inspection.types import InspectedCheckpoint, Inspection, LeftAside, Problem
from ladle_engine.methods import AUTO
from ladle_engine.paths import PathLike
from ladle_engine.progress import ignore
from ladle_engine.storage.input_paths import is_folder
from ladle_engine.tasks.base import Task


@keeping_files_open()
def inspect(  # noqa: PLR0913  # one argument per option, as in `average`
    ckpt_dir: PathLike,
    *,
    task: str | type[Task] | Task | None = None,
    task_options: Mapping[str, Any] | None = None,
    method: str = AUTO,
    method_options: Mapping[str, Any] | None = None,
    pattern: str | None = None,
    last: int | None = None,
    steps: Sequence[int | float] | None = None,
    exclude: str | Sequence[str] | None = None,
    order: str = "auto",
) -> Inspection:
    """Says what is in a folder of checkpoints, and what `average` with the same arguments would do with it.

    Opens headers, and samples of the weights to find copies; small checkpoints that are alike are read whole. Nothing
    about a checkpoint raises: what is wrong stands in its row, and in `problems` where `average` would refuse it.

    Raises:
        ValueError: an argument breaks its own rule.
    """
    filters = Filters(pattern=pattern, exclude=exclude, last=last, steps=steps, order=order)
    wishes = Wishes(task=task, task_options=task_options or {}, method=method, method_options=method_options or {})
    folder = Path(ckpt_dir)
    try:
        if not is_folder(folder):
            message = f"`ckpt_dir=` must be a folder, but `{folder}` is not."
            return _nothing(folder, EngineError("no-checkpoints", message))
        return _Inspector(folder, filters, wishes).inspect()
    except (EngineError, OSError) as error:
        return _nothing(folder, error)


def _nothing(folder: Path, error: Exception) -> Inspection:
    return Inspection(folder=str(folder), usable=False, problems=(problem_of(error),))


class _Inspector:
    def __init__(self, folder: Path, filters: Filters, wishes: Wishes) -> None:
        candidates, passed_over = scan(sources_of(folder))
        looks = Looks()
        self._folder, self._filters, self._wishes = folder, filters, wishes
        self._looks = {each.checkpoint.name: looks.at(each) for each in candidates}
        self._headers = looks
        self._passed_over = tuple(LeftAside(name=each.name, reason=each.reason) for each in passed_over)
        self._copies = Copies(self._looks)
        self._problems: list[Problem] = []

    def inspect(self) -> Inspection:
        found = self._find()
        planner = None if found is None else Planner(found, self._wishes, self._problems)
        plan = None if planner is None else planner.plan()
        warnings = [*(found.warnings if found else ()), *(planner.warnings if planner else ())]
        return Inspection(
            folder=str(self._folder),
            usable=not self._problems,
            problems=tuple(dict.fromkeys(self._problems)),
            checkpoints=self._rows(found),
            passed_over=self._passed_over,
            warnings=tuple(dict.fromkeys(warnings)),
            plan=plan,
        )

    def _find(self) -> CheckpointSet | None:
        """What `average` would take. Where it would refuse, what is left without those that cannot be used."""
        found = self._discover([])
        bad = [] if found is None else [name for name in found.names if self._looks[name].problem is not None]
        for name in bad:
            self._add(self._looks[name].problem)
        all_bad = [name for name, look in self._looks.items() if look.problem is not None]
        if all_bad and (found is None or bad):
            found = self._discover(all_bad)
        return None if found is None else self._of_one_architecture(found)

    def _of_one_architecture(self, found: CheckpointSet) -> CheckpointSet | None:
        """Without those that are unlike the others; what is unlike is said in their rows."""
        unlike = self._unlike(found)
        common = Counter(map(self._architecture, unlike.keys())).most_common(1)
        if common and 2 * common[0][1] > len(found.names):
            # The reference, which is the last one, is the odd one out.
            others = [name for name in self._looks if self._architecture(name) != common[0][0]]
            of_most = self._discover(others)
            if of_most is not None:
                unlike = self._unlike(replace(of_most, checkpoints=(*found.checkpoints, of_most.reference)))
                found = of_most
        for name, problem in unlike.items():
            self._looks[name].problem = problem
        good = [name for name in found.names if name not in unlike]
        return found.of(good) if len(good) > 1 else None

    def _architecture(self, name: str) -> int | None:
        tensors = self._looks[name].tensors
        return None if tensors is None else 1 + self._headers.number_of(tensors)

    def _discover(self, bad: Sequence[str]) -> CheckpointSet | None:
        filters = self._filters
        try:
            return discover(
                self._folder,
                pattern=filters.pattern,
                exclude=[*filters.excluded, *map(glob.escape, bad)],
                last=filters.last,
                steps=filters.steps,
                order=filters.order,
                once=self._copies.once,
            )
        except (EngineError, OSError) as error:
            self._add(problem_of(error))
            return None

    def _unlike(self, found: CheckpointSet) -> dict[str, Problem]:
        """Those whose tensors are not those of the reference. One of each architecture is compared."""
        unlike: dict[str, Problem] = {}
        known: dict[int | None, tuple[str, Problem | None]] = {}
        for name in found.names:
            number = self._architecture(name)
            if number not in known:
                known[number] = (name, _difference(found, name))
            first, problem = known[number]
            if problem is not None:
                self._add(problem)
                unlike[name] = replace(problem, message=problem.message.replace(f"`{first}`", f"`{name}`"))
        return unlike

    def _add(self, problem: Problem | None) -> None:
        if problem is not None and problem not in self._problems:
            self._problems.append(problem)

    def _rows(self, found: CheckpointSet | None) -> tuple[InspectedCheckpoint, ...]:
        how = self._filters.order if self._filters.order in ("name", "modified") else "auto"
        arranged = arrange([look.checkpoint for look in self._looks.values()], how).checkpoints
        taken = {} if found is None else {each.name: each.step for each in found.checkpoints}
        steps = {each.name: each.step for each in arranged} | taken
        names = sorted(steps, key=lambda name: self._looks[name].problem is not None)
        return tuple(self._row(self._looks[name], steps[name], name in taken) for name in names)

    def _row(self, look: Look, step: int | float | None, taken: bool) -> InspectedCheckpoint:
        checkpoint = look.checkpoint
        return InspectedCheckpoint(
            name=checkpoint.name,
            format=checkpoint.format,
            step=step if checkpoint.step is None else checkpoint.step,
            step_from="trainer state" if checkpoint.step is not None else None if step is None else "name",
            size_bytes=look.size_bytes,
            num_files=len(checkpoint.files),
            dtype=look.dtype,
            num_tensors=None if look.tensors is None else len(look.tensors),
            num_parameters=look.num_parameters,
            architecture=self._architecture(checkpoint.name),
            duplicate_of=self._copies.copy_of.get(checkpoint.name),
            duplicate_is_certain=self._copies.is_certain,
            taken=taken,
            problem=look.problem,
            notes=look.notes,
        )


def _difference(found: CheckpointSet, name: str) -> Problem | None:
    """How a checkpoint differs from the reference."""
    if name == found.reference.name:
        return None
    try:
        if (unlike := unlike_reference(found, name)) is not None:
            return problem_of(unlike)
        check_names(replace(found.of([name, found.reference.name]), identical=False), ignore)
    except EngineError as error:
        return problem_of(error)
    return None

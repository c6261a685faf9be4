"""The door: what is in a folder of checkpoints, and what `average` would do with it."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any, ParamSpec

from ladle_engine.checkpoints.adapters.space import DELTA, in_space
from ladle_engine.checkpoints.architectures import unlike
from ladle_engine.checkpoints.differences import differences, explain
from ladle_engine.checkpoints.discover import discover, of_kind
from ladle_engine.checkpoints.filters import Filters
from ladle_engine.checkpoints.folder_scan import scan
from ladle_engine.checkpoints.layouts.components import is_of
from ladle_engine.checkpoints.left_out import Globs, LeftOut
from ladle_engine.checkpoints.metrics_beside import Beside, metrics_beside
from ladle_engine.checkpoints.order import arrange
from ladle_engine.checkpoints.readers import keeping_files_open, open_checkpoint
from ladle_engine.checkpoints.sources import CkptDir, no_folder, paths_of, sources_of
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.checkpoints.unlike_names import told_by_name
from ladle_engine.errors import EngineError
from ladle_engine.far_names import in_far_names
from ladle_engine.far_urls import as_url
from ladle_engine.inspection.ancestor import Ancestor
from ladle_engine.inspection.copies import Copies
from ladle_engine.inspection.expected import Expected
from ladle_engine.inspection.look import Look, Looks, problem_of
from ladle_engine.inspection.plan import Planner, Wishes
from ladle_engine.inspection.types import InspectedCheckpoint, Inspection, LeftAside, Problem
from ladle_engine.methods import AUTO
from ladle_engine.paths import PathLike
from ladle_engine.pipeline.request import AVERAGE, refuse_other_kind
from ladle_engine.storage.far.door import with_far_folders
from ladle_engine.storage.input_paths import is_folder
from ladle_engine.tasks.base import Task

P = ParamSpec("P")

TOLD_ELSEWHERE = "Passed over in "
"""How a warning of `discover` begins that says what `passed_over` says."""


def _telling(call: Callable[P, Inspection]) -> Callable[P, Inspection]:
    """The same function, which tells of what it cannot look at in place of raising."""

    @wraps(call)
    def telling(*args: P.args, **kwargs: P.kwargs) -> Inspection:
        try:
            return call(*args, **kwargs)
        except (EngineError, OSError) as error:
            given = args[0] if args else kwargs["ckpt_dir"]
            shown = ", ".join(as_url(path) or str(path) for path in paths_of(given)[:3])  # type: ignore[arg-type]
            return Inspection(folder=in_far_names(shown), usable=False, problems=(problem_of(error),))

    return telling


@_telling
@partial(with_far_folders, data=())
@keeping_files_open()
def inspect(  # noqa: PLR0913  # one argument per option, as in `average`
    ckpt_dir: CkptDir,
    *,
    kind: str = AVERAGE,
    task: str | type[Task] | Task | None = None,
    task_options: Mapping[str, Any] | None = None,
    method: str = AUTO,
    method_options: Mapping[str, Any] | None = None,
    pattern: str | None = None,
    last: int | None = None,
    steps: Sequence[int | float] | None = None,
    exclude: str | Sequence[str] | None = None,
    order: str = "auto",
    use_ema: bool = False,
    like: str | None = None,
    skip_tensors: Globs | None = None,
    take_from: Mapping[str, Globs] | None = None,
    component: str | None = None,
    adapter_space: str = DELTA,
    base_model: PathLike | None = None,
    base: PathLike | None = None,
    forecast: bool = False,
) -> Inspection:
    """Says what is in a folder of checkpoints, and what `average` with the same arguments would do with it.

    Opens headers, and samples of the weights to find copies; small checkpoints that are alike are read whole. Nothing
    about a checkpoint raises: what is wrong stands in its row, and in `problems` where `average` would refuse it.

    With `forecast` it also reads up to 256 MiB of weights, and says what averaging is expected to bring and how far the
    checkpoints are from their base.

    Raises:
        ValueError: an argument breaks its own rule.
    """
    filters = Filters(pattern=pattern, exclude=exclude, last=last, steps=steps, order=order, like=like)
    selection = {
        **{"pattern": pattern, "last": last, "steps": steps, "order": order, "exclude": filters.excluded},
        **{"use_ema": use_ema, "like": like, "skip_tensors": skip_tensors, "take_from": take_from},
        "component": component,
    }
    LeftOut(skip_tensors=skip_tensors, take_from=take_from)
    refuse_other_kind(kind, method=method, method_options=method_options)
    wishes = Wishes(
        kind=kind,
        task=task,
        task_options=task_options or {},
        method=method,
        method_options=method_options or {},
        adapter_space=adapter_space,
        base_model=base_model,
        base=base,
    )
    return _Inspector(ckpt_dir, selection, wishes).inspect(forecast=forecast)


class _Inspector:
    """Raises `EngineError` or `OSError` where there is nothing to look at."""

    def __init__(self, ckpt_dir: CkptDir, selection: Mapping[str, Any], wishes: Wishes) -> None:
        sources = sources_of(ckpt_dir)
        if sources.is_one_folder and not is_folder(sources.folder):
            raise no_folder(sources.folder)
        self._ckpt_dir, self._folder, self._wishes = ckpt_dir, sources.folder, wishes
        self._selection = dict(selection)
        component = selection["component"]
        candidates, passed_over = scan(sources, component)
        self._headers = Looks(ranks_count=wishes.adapter_space != DELTA)
        self._looks = {
            each.checkpoint.name: self._headers.at(of_kind(each, selection["use_ema"]))
            for each in candidates
            if component is None or is_of(component, each.checkpoint.name)
        }
        self._passed_over = tuple(LeftAside(name=each.name, reason=each.reason) for each in passed_over)
        self._copies = Copies(self._looks)
        self._problems: list[Problem] = []
        self._ancestor = None if wishes.base is None else Ancestor(wishes.base)

    def inspect(self, *, forecast: bool) -> Inspection:
        found = self._find()
        planner = None if found is None else Planner(found, self._wishes, self._problems)
        plan = None if planner is None else planner.plan()
        expected = Expected.of(found) if forecast and found is not None else Expected()
        if self._ancestor is not None and found is not None:
            self._ancestor.refuse_checkpoint(found, expected.from_base)
            self._add(self._ancestor.problem)
        warnings = [*(found.warnings if found else ()), *(planner.warnings if planner else ()), *expected.warnings]
        warnings = [each for each in warnings if not each.startswith(TOLD_ELSEWHERE)]
        return Inspection(
            folder=in_far_names(str(self._folder)),
            usable=not self._problems,
            problems=tuple(dict.fromkeys(self._problems)),
            checkpoints=self._rows(found),
            passed_over=self._passed_over,
            warnings=tuple(dict.fromkeys(warnings)),
            plan=plan,
            base=None if self._ancestor is None else self._ancestor.told(found, expected.from_base),
            forecast=expected.forecast,
        )

    def _find(self) -> CheckpointSet | None:
        """What `average` would take. Where it would refuse, what is left without those that cannot be used."""
        found = self._discover()
        bad = [] if found is None else [name for name in found.names if self._looks[name].problem is not None]
        for name in bad:
            self._add(self._looks[name].problem)
        all_bad = [name for name, look in self._looks.items() if look.problem is not None]
        if all_bad and (found is None or bad):
            self._selection["exclude"] = [*self._selection["exclude"], *map(glob.escape, all_bad)]
            found = self._discover()
        return None if found is None else self._of_one_architecture(found)

    def _discover(self, **changed: Any) -> CheckpointSet | None:
        try:
            selection = {**self._selection, **changed}
            found = self._with_base(discover(self._ckpt_dir, **selection, once=self._copies.once), selection)
            return in_space(found, self._wishes.adapter_space)
        except (EngineError, OSError) as error:
            self._add(problem_of(error))
            return None

    def _with_base(self, found: CheckpointSet, selection: Mapping[str, Any]) -> CheckpointSet:
        """Without the base among the checkpoints, also where it cannot be theirs."""
        if self._ancestor is None:
            return found

        def find_without(names: Sequence[str]) -> CheckpointSet:
            excluded = [*selection["exclude"], *names]
            return discover(self._ckpt_dir, **{**selection, "exclude": excluded}, once=self._copies.once)

        joined = self._ancestor.join(found, find_without)
        self._add(self._ancestor.problem)
        return joined

    def _of_one_architecture(self, found: CheckpointSet) -> CheckpointSet | None:
        """Without those that are unlike the others; what is unlike is said in their rows."""
        differing = self._differing(found)
        if not differing:
            return found
        self._add(problem_of(unlike(found)))
        common, count = Counter(map(self._architecture, differing)).most_common(1)[0]
        if 2 * count > len(found.names):
            # The reference, which is the last one, is the odd one out.
            like = next(name for name in differing if self._architecture(name) == common)
            of_most = self._discover(like=like)
            if of_most is not None:
                differing = self._differing(replace(of_most, checkpoints=(*found.checkpoints, of_most.reference)))
                # That the others are left out says more than what was asked for.
                found = replace(of_most, warnings=tuple(each for each in of_most.warnings if each in found.warnings))
        for name, problem in differing.items():
            self._looks[name].problem = problem
        good = [name for name in found.names if name not in differing]
        return found.of(good) if len(good) > 1 else None

    def _architecture(self, name: str) -> int | None:
        tensors = self._looks[name].tensors
        return None if tensors is None else self._headers.number_of(tensors)

    def _differing(self, found: CheckpointSet) -> dict[str, Problem]:
        """Those whose tensors are not those of the reference. One of each header is compared."""
        told: dict[int | None, tuple[str, str | None]] = {}
        for name in found.names:
            number = self._architecture(name)
            if number not in told:
                told[number] = (name, _difference(found, name))
        differing = {}
        for name in found.names:
            first, text = told[self._architecture(name)]
            if text is not None:
                text = text.replace(f"`{first}`", f"`{name}`")
                differing[name] = Problem(code="mismatched-checkpoints", message=text)
        return differing

    def _add(self, problem: Problem | None) -> None:
        if problem is not None and problem not in self._problems:
            self._problems.append(problem)

    def _rows(self, found: CheckpointSet | None) -> tuple[InspectedCheckpoint, ...]:
        how = self._selection["order"] if self._selection["order"] in ("name", "modified") else "auto"
        arranged = arrange([look.checkpoint for look in self._looks.values()], how).checkpoints
        taken = {} if found is None else {each.name: each.step for each in found.checkpoints}
        steps = {each.name: each.step for each in arranged} | taken
        names = sorted(steps, key=lambda name: self._looks[name].problem is not None)
        beside = metrics_beside([look.checkpoint for look in self._looks.values()], self._folder)
        return tuple(self._row(self._looks[name], steps[name], name in taken, beside) for name in names)

    def _row(self, look: Look, step: int | float | None, taken: bool, beside: Beside) -> InspectedCheckpoint:
        checkpoint = look.checkpoint
        called_best = ("its training calls it the best",) if checkpoint.name in beside.best else ()
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
            metrics=beside.metrics[checkpoint.name],
            taken=taken,
            problem=look.problem,
            notes=(*look.notes, *called_best, *filter(None, [told_by_name(checkpoint.name)])),
        )


def _difference(found: CheckpointSet, name: str) -> str | None:
    """How a checkpoint differs from the reference, in words."""
    reference = found.reference
    if name == reference.name:
        return None
    checkpoint = next(each for each in found.checkpoints if each.name == name)
    with open_checkpoint(checkpoint) as reader:
        tensors = reader.tensors()
        ignored = {*found.taken, *found.dropped}.__contains__
        differing = differences(found.tensors, tensors, ignored)
        if not differing:
            return None
        told = explain(differing, found.tensors, tensors, reference.name, name)
    return f"Of another architecture than `{reference.name}`: {told.text}."

"""What `average` would do with the checkpoints of a folder: order, methods, task, model, groups, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from ladle_engine.checkpoints.check import check_headers
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.errors import CheckpointError, EngineError
from ladle_engine.inspection.look import dtypes_of, problem_of
from ladle_engine.inspection.types import AutoPlan, PlannedMemory, Problem
from ladle_engine.methods import plan_methods
from ladle_engine.methods.context import Plan
from ladle_engine.methods.plan import refuse_bad_starts
from ladle_engine.model.binding import bind
from ladle_engine.model.groups import Grouping, layers_of
from ladle_engine.paths import PathLike
from ladle_engine.pipeline.along.choices import PROFILE
from ladle_engine.pipeline.along.memory import fitting
from ladle_engine.pipeline.along.schedule import CurveOptions, Schedule
from ladle_engine.pipeline.ancestor import refuse_unused
from ladle_engine.pipeline.base_model import Base, open_base
from ladle_engine.pipeline.request import CURVE
from ladle_engine.pipeline.splits import default_device
from ladle_engine.placements.memory_plan import MemoryPlan, demand_of, plans
from ladle_engine.placements.memory_probe import available_bytes
from ladle_engine.profiles import positions_of
from ladle_engine.progress import ProgressEvent, Warned
from ladle_engine.tasks import choose_task
from ladle_engine.tasks.base import Task

T = TypeVar("T")

MOST_NUMBERS = 100_000_000
"""transformers' names are found by loading a model, which takes memory: only up to this size."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a job would ask for, besides which checkpoints."""

    kind: str
    task: str | type[Task] | Task | None
    task_options: Mapping[str, Any]
    method: str
    method_options: Mapping[str, Any]
    adapter_space: str
    base_model: PathLike | None
    base: PathLike | None = None


@dataclass
class Planner:
    """Finds out one thing after the other; what fails becomes a problem, and the rest goes on."""

    checkpoints: CheckpointSet
    wishes: Wishes
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _num_parameters: int | None = None
    """Of the model, where it was compared with the files."""

    def plan(self) -> AutoPlan:
        methods = self._try(self._plan_methods)
        self._try(lambda: self._refuse(methods))
        base = self._try(self._open_base)
        seen = self.checkpoints if base is None else base.described
        task = self._try(lambda: self._choose_task(seen))
        model = self._try(lambda: self._model(task, seen)) if task is not None else None
        numbers = [info for info in self.checkpoints.tensors.values() if info.is_floating]
        return AutoPlan(
            kind=self.wishes.kind,
            checkpoints=self.checkpoints.names,
            order=self.checkpoints.order,
            methods=() if methods is None else methods.methods,
            groups={} if methods is None else _groups(methods, self.checkpoints),
            task=None if task is None else task.name,
            metric=None if task is None else task.metrics[0].name,
            model=model,
            num_parameters=self._num_parameters or sum(info.numel for info in numbers),
            dtype=dtypes_of(self.checkpoints.tensors),
            memory=self._try(lambda: self._memory(methods)),
        )

    @property
    def _is_curve(self) -> bool:
        return self.wishes.kind == CURVE

    def _try(self, find: Callable[[], T]) -> T | None:
        try:
            return find()
        except Exception as error:  # a task's own code, or a config that a stranger wrote
            self.problems.append(problem_of(error))
            return None

    def _plan_methods(self) -> Plan:
        wishes = self.wishes
        # As in a job: what a curve offers as a model is an average over a window.
        name = PROFILE if self._is_curve else wishes.method
        plan = plan_methods(name, wishes.method_options, has_base=wishes.base is not None)
        refuse_unused(plan, wishes.base, is_curve=self._is_curve)
        return plan

    def _refuse(self, methods: Plan | None) -> None:
        # One speaks for all: they have been compared already.
        check_headers(self.checkpoints.of([self.checkpoints.reference.name]), self._hear)
        if methods is not None:
            refuse_bad_starts(methods, self.checkpoints.names)
        if (doubt := self.checkpoints.doubt) is not None:
            if methods is not None and methods.needs_order:
                raise CheckpointError("ambiguous-order", doubt)
            self.warnings.append(f"{doubt} They are taken by {self.checkpoints.order}.")

    def _open_base(self) -> Base | None:
        """Of adapters; None for whole models."""
        given = self.wishes.base_model
        path = None if given is None else Path(given)
        return open_base(self.checkpoints, path, has_model=False, names_task=self.wishes.task is not None)

    def _choose_task(self, seen: CheckpointSet) -> Task:
        return choose_task(seen, self.wishes.task, self.wishes.task_options, self._hear)

    def _hear(self, event: ProgressEvent) -> None:
        if isinstance(event, Warned):
            self.warnings.append(event.message)

    def _model(self, task: Task, seen: CheckpointSet) -> str | None:
        """The model's class, if it takes these checkpoints. Built where it takes no memory."""
        try:
            with torch.device("meta"):
                model = task.build_model(seen)
        except EngineError as error:
            if error.code != "task-failed":
                raise
            # A task of one's own need not work without memory, and does not have to.
            self.warnings.append(f"The model was not built to look at it. {error.message}")
            return None
        if seen is not self.checkpoints:
            return f"{type(model).__name__} with adapters"
        known = model.state_dict().keys() <= self.checkpoints.tensors.keys()
        if known or sum(info.numel for info in self.checkpoints.tensors.values()) <= MOST_NUMBERS:
            with torch.no_grad():
                binding = bind(model, self.checkpoints, task.stored_names(model, self.checkpoints))
            self._num_parameters = binding.num_parameters
            self.warnings += [binding.note] if binding.note else []
        return type(model).__name__

    def _memory(self, methods: Plan | None) -> PlannedMemory:
        vectors = 0 if methods is None else methods.weight_vectors
        demand = demand_of(self.checkpoints, activations=0, has_model=False, weight_vectors=vectors)
        plan = self._memory_of_curve() if self._is_curve else plans(demand, default_device(), SingleProcess())[0]
        return PlannedMemory(
            placement=plan.placement,
            precision=plan.precision,
            needed_bytes=plan.needed_bytes,
            available_bytes=plan.available_bytes,
        )

    def _memory_of_curve(self) -> MemoryPlan:
        """With the options that a curve has without being asked for others."""
        infos = (self.checkpoints.tensors[name] for name in self.checkpoints.averaged)
        positions = positions_of([checkpoint.step for checkpoint in self.checkpoints.checkpoints])
        return fitting(
            Schedule(positions=positions, options=CurveOptions()),
            sizes=[info.numel for info in infos if info.is_floating],
            activations=0,
            available=available_bytes(torch.device("cpu")),
        ).plan


def _groups(methods: Plan, checkpoints: CheckpointSet) -> dict[str, int]:
    """Of methods that train coefficients; counted from the names in the files."""
    names = [name for name, info in checkpoints.tensors.items() if info.is_floating]
    return {_shown(each): _count(each, names) for each in methods.groupings}


def _count(grouping: Grouping, names: list[str]) -> int:
    if isinstance(grouping, int):
        return grouping
    if isinstance(grouping, list):
        return len(grouping) + 1
    return {"model": 1, "layers": len(set(layers_of(names).values()))}.get(grouping, len(names))


def _shown(grouping: Grouping) -> str:
    return grouping if isinstance(grouping, str) else f"{grouping} parts" if isinstance(grouping, int) else "patterns"

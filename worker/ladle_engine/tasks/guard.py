"""The engine's edge to a task: every call goes through here, so that its faults are told as such, by name and line.

What comes back is checked against the rules of `Task` each time. That costs nothing beside a model's pass, and no later
piece of the engine meets a value of another kind or shape than it was made for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import DataError
from ladle_engine.tasks import contract
from ladle_engine.tasks.base import (
    Batch,
    DataSet,
    FitsFolder,
    GivesLogits,
    HasRemarks,
    KeepsExamples,
    Metric,
    Task,
    TrainsUnlabelled,
)
from ladle_engine.tasks.contract import Broken
from ladle_engine.tasks.faults import place_of, task_failed, task_faults
from ladle_engine.tasks.identity import identity_of_type, name_of, state_of


def guard(task: Task) -> Task:
    """The same task behind a guard. Raises `TaskError` (task-failed) for one whose declarations break the rules."""
    return cast(Task, _guarded(task))


def for_folder(task: Task, checkpoints: CheckpointSet) -> Task:
    """The task as it is for these checkpoints, guarded. Raises `TaskError`."""
    return _guarded(task).for_checkpoints(checkpoints)


def identity_of(task: Task) -> Mapping[str, Any]:
    """What tells this task from any other: its type, version and source, and the state in which it was made."""
    return _guarded(task).identity


def refuse(task: Task, broken: Broken) -> NoReturn:
    """Raises `TaskError` (task-failed)."""
    _guarded(task).refuse(broken)


def trains_unlabelled(task: Task) -> bool:
    return isinstance(_guarded(task).unguarded, TrainsUnlabelled)


def gives_logits(task: Task) -> bool:
    """Whether what its models put out can be kept and combined; see `GivesLogits`."""
    found = _guarded(task).unguarded
    if not isinstance(found, GivesLogits):
        return False
    # A subclass that measures something else has inherited what goes with its base's loss.
    classes = type(found).__mro__
    depth = {name: _depth(classes, name) for name in ("of_logits", "loss", "evaluate")}
    return depth["of_logits"] == min(depth.values())


def _depth(classes: Sequence[type], name: str) -> int:
    """The position of the first class that has a method of its own by this name."""
    return next((position for position, each in enumerate(classes) if name in vars(each)), len(classes))


def by_entropy(task: Task) -> Task:
    """The same task with the entropy of its predictions as the loss that is trained.

    Raises `DataError` (invalid-data) for a task that has none.
    """
    if not trains_unlabelled(task):
        raise DataError(
            "invalid-data",
            f"`train_set_use=` must be `coefficients` or `batchnorm` with task `{task.name}`, which cannot be trained "
            f"without labels, but is `entropy`. Classification tasks can.",
        )
    other = copy.copy(_guarded(task))
    other.trained = "entropy"
    return cast(Task, other)


def open_unlabelled(task: Task, path: Path, checkpoints: CheckpointSet) -> DataSet:
    """Data for a task that is trained by entropy."""
    return _guarded(task).open_data(path, checkpoints, "open_unlabelled")


def trained_part(task: Task) -> str:
    """The method whose value is trained: `loss` or `entropy`."""
    return _guarded(task).trained


def backward(task: Task, loss: Tensor) -> None:
    """The gradients of a loss of the task, whose network may have functions of its own that fail here."""
    with _guarded(task).faults(trained_part(task)):
        loss.backward()


class GuardedTask:
    """A task whose faults are `TaskError`s, and whose answers follow the rules."""

    trained = "loss"
    """The method whose value is trained."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._module = type(task).__module__
        for broken in contract.broken_declarations(task)[:1]:
            self.refuse(broken)
        self.name: str = task.name
        self.summary: str = task.summary
        self.metrics: tuple[Metric, ...] = tuple(task.metrics)
        self.options_type: type = task.options_type
        batch_size = getattr(task, "batch_size", None)
        self._check(contract.broken_batch_size(batch_size))
        self.batch_size: int = task.batch_size
        # Now, before any use fills caches: the same job then has the same identity in every process.
        self.identity = {**identity_of_type(type(task)), "state": state_of(task)}

    @property
    def unguarded(self) -> Task:
        return self._task

    def for_checkpoints(self, checkpoints: CheckpointSet) -> Task:
        """The task for this folder, which is another one where its metrics or options go by the folder."""
        if not isinstance(self._task, FitsFolder):
            return cast(Task, self)
        made: Task = self._call("for_checkpoints", checkpoints)
        if made is None or isinstance(made, type):
            self.refuse(Broken("for_checkpoints", "return a task", f"returns {contract.shown(made)}"))
        return guard(made)

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        model: nn.Module = self._call("build_model", checkpoints)
        self._check(contract.broken_model(model))
        return model

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        names: Mapping[str, str | None] = self._call("stored_names", model, checkpoints)
        self._check(contract.broken_names(names))
        return names

    def open_data(self, path: Path, checkpoints: CheckpointSet, part: str = "open_data") -> DataSet:
        data = self._call(part, path, checkpoints)
        self._check(contract.broken_data(data, part))
        return GuardedData(self, data)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss: Tensor = self._call(self.trained, model, batch)
        self._check(contract.broken_loss(loss, _device_of(batch), self.trained))
        return loss

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        scores: Mapping[str, Tensor] = self._call("evaluate", model, batch)
        self._check_scores(scores, batch, "evaluate")
        return scores

    def generate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        scores: Mapping[str, Tensor] = self._call("generate", model, batch)
        self._check_scores(scores, batch, "generate")
        return scores

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = self._call("logits", model, batch)
        self._check(contract.broken_logits(logits, _count(batch)))
        return logits

    def targets(self, batch: Batch) -> Tensor:
        targets: Tensor = self._call("targets", batch)
        self._check(contract.broken_targets(targets, _count(batch)))
        return targets

    def of_logits(self, logits: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        scores: Mapping[str, Tensor] = self._call("of_logits", logits, targets)
        if logits.dtype == torch.float32:
            metrics = [metric for metric in self.metrics if not metric.generated]
            self._check(contract.broken_scores(scores, metrics, len(logits), logits.device, "of_logits"))
        self._check(contract.broken_loss_of_logits(scores["loss"], logits))
        return scores

    def _check_scores(self, scores: Mapping[str, Tensor], batch: Batch, part: str) -> None:
        metrics = [metric for metric in self.metrics if metric.generated is (part == "generate")]
        self._check(contract.broken_scores(scores, metrics, _count(batch), _device_of(batch), part))

    def faults(self, part: str, function: object = None) -> AbstractContextManager[None]:
        """For a block in which the task's own code runs."""
        return task_faults(self.name, f"in `{part}`", self._module, function or getattr(self._task, part, None))

    def refuse(self, broken: Broken, function: object = None) -> NoReturn:
        place = place_of(function or getattr(self._task, broken.part, None))
        raise task_failed(broken.message(name_of(self._task), place), self._module)

    def _call(self, part: str, *arguments: object) -> Any:
        with self.faults(part):
            return getattr(self._task, part)(*arguments)

    def _check(self, broken: Broken | None) -> None:
        if broken is not None:
            self.refuse(broken)


class GuardedData:
    """A data set under the same guard as its task."""

    def __init__(self, task: GuardedTask, data: DataSet) -> None:
        self._task = task
        self._data = data

    @property
    def remarks(self) -> Sequence[str]:
        with self._task.faults("open_data(...).remarks"):
            return [str(remark) for remark in self._data.remarks] if isinstance(self._data, HasRemarks) else []

    def keep(self, max_bytes: int) -> None:
        if isinstance(self._data, KeepsExamples):
            with self._task.faults("open_data(...).keep", self._data.keep):
                self._data.keep(max_bytes)

    def __len__(self) -> int:
        with self._task.faults("open_data(...).__len__", type(self._data).__len__):
            return len(self._data)

    def batch(self, indices: Tensor) -> Batch:
        with self._task.faults("open_data(...).batch", self._data.batch):
            batch = self._data.batch(indices)
        if broken := contract.broken_batch(batch, len(indices)):
            self._task.refuse(broken, self._data.batch)
        return batch


def _guarded(task: Task) -> GuardedTask:
    if isinstance(task, GuardedTask):
        return task
    # Attributes may be properties: code of the task's own.
    with task_faults(type(task).__name__, "in its declarations", type(task).__module__):
        return GuardedTask(task)


def _count(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _device_of(batch: Batch) -> torch.device:
    return next(iter(batch.values())).device

"""A task made of what a notebook gives: a model, a loss, metrics and data, without a class of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.out_of_memory import named_out_of_memory
from ladle_engine.errors import DataError, TaskError
from ladle_engine.options import option, parse_options
from ladle_engine.tasks.base import Batch, DataSet, Metric
from ladle_engine.tasks.given.data import GivenSet, changing_part, digest_of, open_given
from ladle_engine.tasks.given.functions import Functions, metrics_of
from ladle_engine.tasks.given.scoring import of_parts, scoring_of
from ladle_engine.tasks.given.trial import Kind, Trial, try_functions
from ladle_engine.tasks.given.user_code import refuse
from ladle_engine.tasks.identity import identity_of_function, identity_of_module

TRAIN_SET = "train_set"
LOSS = Metric(name="loss", higher_is_better=False)


@dataclass(frozen=True, kw_only=True)
class FunctionOptions:
    batch_size: int | None = option(
        None, "examples per batch, to train and to evaluate; that of the data when absent", at_least=1
    )


class FunctionTask:
    """What `average(model=..., loss=..., data=...)` makes of its arguments."""

    name: ClassVar[str] = "function"
    summary: ClassVar[str] = "Any model, with the loss and the data that a notebook has."
    options_type: ClassVar[type] = FunctionOptions

    def __init__(
        self,
        functions: Functions,
        data: Mapping[str, Any],
        *,
        device: torch.device,
        options: Mapping[str, Any],
        declared: Metric | None,
    ) -> None:
        """`data` go by what messages call them, the validation data first. `declared` is the metric that judges, where
        more is known of it than its name."""
        self.metrics: tuple[Metric, ...] = (LOSS,)
        self._functions = functions
        self._data = dict(data)
        self._device = device
        self._declared = declared
        self._options: FunctionOptions = parse_options(
            FunctionOptions, options, owner="task `function`", error=TaskError, code="invalid-task-options"
        )
        self.batch_size = self._options.batch_size or 1

    @classmethod
    def recognises(cls, checkpoints: CheckpointSet) -> bool:
        return False

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        raise TaskError("unknown-task", "`function` must be made by `average`, of `model=`, `loss=` and `data=`.")

    def for_checkpoints(self, checkpoints: CheckpointSet) -> FunctionTask:
        """Opens the data and tries the functions on a few examples."""
        return _Opened(self)

    def build_model(self, checkpoints: CheckpointSet) -> nn.Module:
        return self._functions.build_model()

    def stored_names(self, model: nn.Module, checkpoints: CheckpointSet) -> Mapping[str, str | None]:
        return {}

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        raise NotImplementedError

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        raise NotImplementedError


class _Opened(FunctionTask):
    """The same once its data are open and it is known what its functions return."""

    def __init__(self, task: FunctionTask) -> None:
        self.__dict__.update(copy.copy(task).__dict__)
        functions, sets = self._functions, self._open_sets()
        first = sets[0].given
        data = self._digests(sets)
        with named_out_of_memory():
            trial = try_functions(functions, first, self._device)
        sets[0].remarks = (*sets[0].remarks, *trial.remarks)
        self.metrics = self._metrics_of(trial, is_whole_batches=first.is_whole_batches)
        self.batch_size = first.batch_size
        self.given = {
            "model": identity_of_module(functions.build_model()),
            "loss": identity_of_function(functions.loss),
            "metrics": identity_of_function(functions.metrics),
            "data": data,
        }
        """What tells it from others; see `identity_of`."""
        self._sets = {placeholder(each.name): each for each in sets}
        self._scoring = scoring_of(functions, sets, trial.kind, self.metrics)

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        return self._sets[path]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._scoring.loss(model, batch)

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return self._scoring.evaluate(model, batch)

    def _open_sets(self) -> list[GivenSet]:
        sets: list[GivenSet] = []
        for name, data in self._data.items():
            given = open_given(name, data, self._options.batch_size)
            if given.is_whole_batches and self._options.batch_size is not None:
                raise TaskError(
                    "invalid-task-options",
                    f"`batch_size` must be absent for `{name}=`, whose batches cannot be cut into examples, but is "
                    f"{self._options.batch_size}.",
                )
            if sets and given.is_whole_batches != sets[0].given.is_whole_batches:
                rule = "have examples that can be told apart where `data=` has, and only there"
                refuse(name, rule, "only one of the two has")
            sets.append(GivenSet(name, given))
        return sets

    def _digests(self, sets: Sequence[GivenSet]) -> dict[str, str]:
        """Of the data, by the arguments' names. Raises `DataError` (invalid-data) for data that change by themselves,
        unless they only train."""
        found = {}
        for each in sets:
            name = each.name
            changing = changing_part(each.given)
            if changing is None:
                found[name] = digest_of(each.given)
            elif name != TRAIN_SET:
                raise DataError(
                    "invalid-data",
                    f"`{name}=` must give the same example each time, but {changing} is another one the second time. "
                    f"Turn random augmentation and random masks off, or make them depend on the example's index.",
                )
            else:
                found[name] = str(len(each))
                each.remarks = (
                    *each.remarks,
                    f"`{name}=` gives {changing} otherwise the second time (augmentation?). "
                    f"A repeated call does not give the same result.",
                )
        return found

    def _metrics_of(self, trial: Trial, *, is_whole_batches: bool) -> tuple[Metric, ...]:
        declared = self._declared
        found = metrics_of(trial.scores, declared)
        loss = declared if declared is not None and declared.name == "loss" else LOSS
        known = {*trial.scores, "loss"}
        for metric in (*found, loss):
            if missing := next((name for name in metric.needs if name not in known), None):
                rule = f"return `{missing}`, which `metric=` is made from"
                value = f"returns {', '.join(f'`{name}`' for name in trial.scores) or 'nothing'}"
                refuse("metrics", rule, value, self._functions.metrics)
            if is_whole_batches and metric.of is not None:
                rule = "be a mean over examples, because batches that cannot be cut have no examples to sum over"
                refuse("metric", rule, f"`{metric.name}` is a function of statistics")
        if is_whole_batches:
            return tuple(of_parts(metric) for metric in (*found, loss))
        by_example = "loss" in trial.scores or trial.kind is Kind.PER_EXAMPLE
        return (*found, loss if by_example else of_parts(loss))


def placeholder(argument: str) -> Path:
    """Stands where other tasks have the path of a data set: messages then name the argument."""
    return Path(f"{argument}=")

"""The examples that fit, select, train and recompute statistics."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ladle_engine.checkpoints import CheckpointSet
from ladle_engine.errors import DataError
from ladle_engine.pipeline.request import BATCHNORM, COEFFICIENTS, ENTROPY, Request
from ladle_engine.storage.input_paths import same_place
from ladle_engine.tasks.base import DataSet, HasRemarks, KeepsExamples, Task
from ladle_engine.tasks.examples import Examples, join, split
from ladle_engine.tasks.guard import by_entropy, open_unlabelled
from ladle_engine.tasks.joined import JoinedData

DEVICES = ("cpu", "cuda")
"""Kinds of device that a job can run on."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Of several validation sets, `fit` and `select` hold the parts of those that judge, weighted as they judge."""

    fit: Examples
    select: Examples
    others: Mapping[str, Examples]
    """Of the sets that do not judge, by name: what select is of the others."""
    coefficients: Examples
    """Trains the coefficients."""
    statistics: Examples
    """Recomputes BatchNorm."""
    data_sets: Sequence[DataSet]
    """Each one once."""

    @property
    def remarks(self) -> list[str]:
        """What the user should be told of the data."""
        remarks = [remark for data in self.data_sets if isinstance(data, HasRemarks) for remark in data.remarks]
        return list(dict.fromkeys(remarks))

    def keep_examples(self, max_bytes: int) -> None:
        """Lets the data sets keep what they prepare, in so much memory together."""
        keeping = [data for data in self.data_sets if isinstance(data, KeepsExamples)]
        for data in keeping:
            data.keep(max_bytes // len(keeping))


def open_splits(
    request: Request,
    task: Task,
    checkpoints: CheckpointSet,
) -> Splits:
    """Raises `DataError`, also when a split would hold too few examples to train or to judge on."""
    _refuse_same_places(request)
    device = usable_device(request.device) if request.device is not None else default_device()
    halves = {
        name: _halves(request, task, task.open_data(path, checkpoints), name, device)
        for name, path in request.val_sets.items()
    }
    judging = request.named_sets.weights or {"": 1.0}
    fit, select = _joined({name: halves[name] for name in judging}, judging)
    others = {name: half_select for name, (_, half_select) in halves.items() if name not in judging}
    data_sets = [half_fit.data for half_fit, _ in halves.values()]
    if request.train_set is None:
        if request.train_set_use != COEFFICIENTS:
            raise DataError(
                "invalid-data",
                f"`train_set=` must be given with `train_set_use: {request.train_set_use}`, but is absent.",
            )
        return Splits(fit=fit, select=select, others=others, coefficients=fit, statistics=fit, data_sets=data_sets)
    train = _training_examples(request, task, checkpoints, device)
    trains = request.train_set_use != BATCHNORM
    return Splits(
        fit=fit,
        select=select,
        others=others,
        coefficients=train if trains else fit,
        # What has no labels cannot be evaluated.
        statistics=fit if request.train_set_use == ENTROPY else train,
        data_sets=[*data_sets, train.data],
    )


def _refuse_same_places(request: Request) -> None:
    """What judges must not train, and no set counts twice."""
    sets = request.val_sets
    for (one, path), (other, other_path) in itertools.combinations(sets.items(), 2):
        if same_place(path, other_path):
            raise DataError(
                "invalid-data",
                f"`val_set=` must have other data for each name, but `{one}` and `{other}` are both `{path}`.",
            )
    for name, path in sets.items():
        if request.train_set is not None and same_place(Path(request.train_set), path):
            which = f"set `{name}` of `val_set=`" if name else "`val_set=`"
            raise DataError(
                "invalid-data",
                f"`train_set=` must be other data than {which}, part of which judges, but both are "
                f"`{request.train_set}`.",
            )


def _halves(request: Request, task: Task, data: DataSet, name: str, device: torch.device) -> tuple[Examples, Examples]:
    """The fit split and the select split of one validation set.

    Sets of one size are cut alike: they may be versions of the same examples, and none of these must be in both.
    """
    indices = split(len(data), request.select_fraction, request.seed)
    fit, select = (Examples(task=task, data=data, indices=part, device=device) for part in indices)
    if min(len(fit), len(select)) < 2:
        of_set = f" of the set `{name}`" if name else ""
        raise DataError(
            "too-little-data",
            f"`select_fraction=` must leave at least 2 examples on each side, but {request.select_fraction} of "
            f"{len(data)} examples{of_set} is {len(select)} to select and {len(fit)} to fit."
            + (f" Give more examples than `{request.val_sets[name]}` holds." if len(data) < 4 else ""),
        )
    return fit, select


def _joined(halves: Mapping[str, tuple[Examples, Examples]], weights: Mapping[str, float]) -> tuple[Examples, Examples]:
    if len(halves) == 1:
        return next(iter(halves.values()))
    data = JoinedData({name: fit.data for name, (fit, _) in halves.items()}, weights)
    fits, selects = ({name: both[part] for name, both in halves.items()} for part in (0, 1))
    return join(fits, data), join(selects, data)


def _training_examples(request: Request, task: Task, checkpoints: CheckpointSet, device: torch.device) -> Examples:
    """In random order."""
    assert request.train_set is not None
    path = Path(request.train_set)
    if request.train_set_use == ENTROPY:
        task = by_entropy(task)
        data = open_unlabelled(task, path, checkpoints)
    else:
        data = task.open_data(path, checkpoints)
    if len(data) < 2:
        raise DataError(
            "too-little-data", f"`train_set=` must hold at least 2 examples, but `{path}` holds {len(data)}."
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(request.seed))
    return Examples(task=task, data=data, indices=order, device=device)


def usable_device(device: str | torch.device) -> torch.device:
    try:
        usable = torch.device(device)
        torch.empty(1, device=usable)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"`device` must be one that torch can use here, but is {device!r}: {error}") from error
    if usable.type not in DEVICES:
        raise ValueError(
            f"`device` must be one of {', '.join(DEVICES)}, where sums are float64 and memory is known, but is "
            f"{str(device)!r}."
        )
    return usable


def default_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

"""The examples that fit, select, train and recompute statistics."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ladle_engine.checkpoints import CheckpointSet
from ladle_engine.errors import DataError
from ladle_engine.pipeline.request import TRAIN_SET_USES, Request
from ladle_engine.storage.input_paths import same_place
from ladle_engine.tasks.base import DataSet, HasRemarks, KeepsExamples, Task
from ladle_engine.tasks.examples import Examples, split

DEVICES = ("cpu", "cuda")
"""Kinds of device that a job can run on."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    fit: Examples
    select: Examples
    coefficients: Examples
    """Trains the coefficients."""
    statistics: Examples
    """Recomputes BatchNorm."""

    @property
    def data_sets(self) -> list[DataSet]:
        """Each one once."""
        return list({id(part.data): part.data for part in (self.fit, self.statistics)}.values())

    @property
    def remarks(self) -> list[str]:
        """What the user should be told of the data."""
        return [remark for data in self.data_sets if isinstance(data, HasRemarks) for remark in data.remarks]

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
    where = usable_device(request.device) if request.device is not None else default_device()
    val_set = Path(request.val_set)
    train_set = Path(request.train_set) if request.train_set is not None else None
    data = task.open_data(val_set, checkpoints)
    fit_indices, select_indices = split(len(data), request.select_fraction, request.seed)
    if min(len(fit_indices), len(select_indices)) < 2:
        raise DataError(
            "too-little-data",
            f"`select_fraction=` must leave at least 2 examples on each side, but {request.select_fraction} of "
            f"{len(data)} examples is {len(select_indices)} to select and {len(fit_indices)} to fit."
            + (f" Give more examples than `{val_set}` holds." if len(data) < 4 else ""),
        )
    fit = Examples(task=task, data=data, indices=fit_indices, device=where)
    select = Examples(task=task, data=data, indices=select_indices, device=where)
    if train_set is None:
        if request.train_set_use != TRAIN_SET_USES[0]:
            raise DataError(
                "invalid-data",
                f"`train_set=` must be given with `train_set_use: {request.train_set_use}`, but is absent.",
            )
        return Splits(fit=fit, select=select, coefficients=fit, statistics=fit)
    if same_place(train_set, val_set):
        raise DataError(
            "invalid-data",
            f"`train_set=` must be other data than `val_set=`, half of which judges, but both are `{train_set}`.",
        )
    train_data = task.open_data(train_set, checkpoints)
    if len(train_data) < 2:
        raise DataError(
            "too-little-data",
            f"`train_set=` must hold at least 2 examples, but `{train_set}` holds {len(train_data)}.",
        )
    order = torch.randperm(len(train_data), generator=torch.Generator().manual_seed(request.seed))
    train = Examples(task=task, data=train_data, indices=order, device=where)
    trains = request.train_set_use == "coefficients"
    return Splits(fit=fit, select=select, coefficients=train if trains else fit, statistics=train)


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

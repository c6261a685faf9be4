"""What a job asks for: the arguments of `average`, checked, and which of them decide the result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from ladle_engine.methods import AUTO
from ladle_engine.output.recipe import OUTPUT_DTYPES
from ladle_engine.paths import PathLike
from ladle_engine.placements.memory_plan import AUTO as ANY
from ladle_engine.progress import ProgressCallback, ignore
from ladle_engine.tasks.base import Task

TRAIN_SET_USES = ("coefficients", "batchnorm")

DECIDES = {"decides": True}
"""Marks a field that decides the result: it stands in the report, and a resume state belongs to it."""

DECIDING_PATH = {"decides": True, "is_path": True}
"""The same for a path, which may differ between ranks that see the same files at different places."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of `average`, which documents them. Raises `ValueError` for one that breaks its own rule."""

    ckpt_dir: PathLike = field(metadata=DECIDING_PATH)
    val_set: PathLike = field(metadata=DECIDING_PATH)
    output: PathLike
    method: str = field(default=AUTO, metadata=DECIDES)
    method_options: Mapping[str, Any] | None = field(default=None, metadata=DECIDES)
    task: str | type[Task] | Task | None = None
    """What it comes to, and its options, decide the result; see `deciding_settings`."""
    task_options: Mapping[str, Any] | None = field(default=None, metadata=DECIDES)
    pattern: str | None = field(default=None, metadata=DECIDES)
    last: int | None = field(default=None, metadata=DECIDES)
    steps: Sequence[int] | None = field(default=None, metadata=DECIDES)
    exclude: str | Sequence[str] | None = field(default=None, metadata=DECIDES)
    order: str = field(default="auto", metadata=DECIDES)
    train_set: PathLike | None = field(default=None, metadata=DECIDING_PATH)
    train_set_use: str = field(default="coefficients", metadata=DECIDES)
    select_fraction: float = field(default=0.5, metadata=DECIDES)
    metric: str | None = field(default=None, metadata=DECIDES)
    dtype: str = field(default="keep", metadata=DECIDES)
    max_shard_bytes: int = 5_000_000_000
    seed: int = field(default=0, metadata=DECIDES)
    device: str | torch.device | None = None
    placement: str = ANY
    precision: str = field(default=ANY, metadata=DECIDES)
    state_dir: PathLike | None = None
    provenance: Mapping[str, str] | None = None
    progress: ProgressCallback = ignore
    commit: bool = True

    def __post_init__(self) -> None:
        for name in ("ckpt_dir", "val_set", "output", "train_set", "state_dir"):
            path = getattr(self, name)
            may_be_absent = name in ("train_set", "state_dir")
            if not isinstance(path, (str, os.PathLike)) and not (path is None and may_be_absent):
                raise ValueError(f"`{name}` must be a path, but is {path!r}.")
        for name, value, known in (
            ("dtype", self.dtype, tuple(OUTPUT_DTYPES)),
            ("train_set_use", self.train_set_use, TRAIN_SET_USES),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, but is {value!r}.")
        if not isinstance(self.select_fraction, (int, float)) or not 0 < self.select_fraction < 1:
            raise ValueError(f"`select_fraction` must be between 0 and 1, but is {self.select_fraction!r}.")
        for name, number, least in (("seed", self.seed, 0), ("max_shard_bytes", self.max_shard_bytes, 1)):
            refuse_number(name, number, least)

    @property
    def data_paths(self) -> tuple[Path, ...]:
        """The validation set and, where there is one, the training set."""
        return tuple(self.data.values())

    @property
    def data(self) -> dict[str, Path]:
        """The same by the arguments' names."""
        given = {"val_set": self.val_set, "train_set": self.train_set}
        return {name: Path(path) for name, path in given.items() if path is not None}

    def deciding_settings(self, task: Task, *, with_paths: bool = True) -> dict[str, Any]:
        """What decides the result, as plain JSON values; `task` is the one that was chosen."""
        settings = {
            each.name: _plain(getattr(self, each.name))
            for each in fields(self)
            if each.metadata.get("decides") and (with_paths or not each.metadata.get("is_path"))
        }
        return settings | {"task": task.name}


def refuse_number(name: str, number: object, least: int) -> None:
    """Raises `ValueError` for what is not a whole number of the size that files and torch take."""
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number < 2**63:
        raise ValueError(f"`{name}` must be a whole number from {least} to 2^63 - 1, but is {number!r}.")


def _plain(value: Any) -> Any:
    """As it goes into JSON: paths as text, sequences as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value

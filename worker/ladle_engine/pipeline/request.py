"""What a job asks for: the arguments of `average`, checked, and which of them decide the result."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from ladle_engine.checkpoints.adapters.space import DELTA, SPACES
from ladle_engine.checkpoints.sources import CkptDir, paths_of
from ladle_engine.evaluation.sets import NamedSets
from ladle_engine.methods import AUTO
from ladle_engine.output.folder import OUTPUT_FORMATS, SAFETENSORS
from ladle_engine.output.recipe import OUTPUT_DTYPES
from ladle_engine.paths import PathLike
from ladle_engine.pipeline.along.schedule import SHAPES, CurveOptions
from ladle_engine.placements.memory_plan import AUTO as ANY
from ladle_engine.progress import ProgressCallback, ignore
from ladle_engine.tasks.base import Task

COEFFICIENTS, BATCHNORM, ENTROPY = "coefficients", "batchnorm", "entropy"
TRAIN_SET_USES = (COEFFICIENTS, BATCHNORM, ENTROPY)
"""With entropy the training set needs no labels (AdaMerging, Yang et al. 2024)."""

AVERAGE, CURVE = "average", "curve"
KINDS = (AVERAGE, CURVE)
"""Of jobs. A curve has no model, and says how good the best average is along the run."""

OF_AN_AVERAGE = {"method": AUTO, "method_options": None, "diagnose": False, "no_set_worse": False}
"""What only an average has -> what it is without being asked for."""

FIRST, MEAN = "first", "mean"
"""Of several validation sets: the first one judges, or the mean of all."""

MOST_RANK = 65_536
"""Of an adapter."""
SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
MOST_SETS = 100
LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6
"""Beyond them a set is as good as alone, or as good as absent."""

DECIDES = {"decides": True}
"""Marks a field that decides the result: it stands in the report, and a resume state belongs to it."""

DECIDING_PATH = {"decides": True, "is_path": True}
"""The same for a path, which may differ between ranks that see the same files at different places."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of `average`, which documents them. Raises `ValueError` for one that breaks its own rule."""

    ckpt_dir: CkptDir = field(metadata=DECIDING_PATH)
    val_set: PathLike | Mapping[str, PathLike] = field(metadata=DECIDING_PATH)
    output: PathLike
    kind: str = field(default=AVERAGE, metadata=DECIDES)
    curve_every: int | None = field(default=None, metadata=DECIDES)
    curve_shapes: Sequence[str] = field(default=(), metadata=DECIDES)
    curve_windows: int = field(default=1, metadata=DECIDES)
    curve_earlier: PathLike | None = None
    """It decides nothing: what is taken from there is what would be found anew."""
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
    adapter_space: str = field(default=DELTA, metadata=DECIDES)
    adapter_rank: int | None = field(default=None, metadata=DECIDES)
    adapter_error: float | None = field(default=None, metadata=DECIDES)
    base_model: PathLike | None = field(default=None, metadata=DECIDING_PATH)
    base: PathLike | None = field(default=None, metadata=DECIDING_PATH)
    use_ema: bool = field(default=False, metadata=DECIDES)
    like: str | None = field(default=None, metadata=DECIDES)
    skip_tensors: str | Sequence[str] | None = field(default=None, metadata=DECIDES)
    take_from: Mapping[str, str | Sequence[str]] | None = field(default=None, metadata=DECIDES)
    component: str | None = field(default=None, metadata=DECIDES)
    train_set: PathLike | None = field(default=None, metadata=DECIDING_PATH)
    train_set_use: str = field(default=COEFFICIENTS, metadata=DECIDES)
    select_fraction: float = field(default=0.5, metadata=DECIDES)
    metric: str | None = field(default=None, metadata=DECIDES)
    judge_by: str | Mapping[str, float] = field(default=FIRST, metadata=DECIDES)
    no_set_worse: bool = field(default=False, metadata=DECIDES)
    diagnose: bool = field(default=False, metadata=DECIDES)
    dtype: str = field(default="keep", metadata=DECIDES)
    max_shard_bytes: int = 5_000_000_000
    output_format: str = SAFETENSORS
    seed: int = field(default=0, metadata=DECIDES)
    device: str | torch.device | None = None
    placement: str = ANY
    precision: str = field(default=ANY, metadata=DECIDES)
    state_dir: PathLike | None = None
    provenance: Mapping[str, str] | None = None
    progress: ProgressCallback = ignore
    commit: bool = True

    def __post_init__(self) -> None:
        paths_of(self.ckpt_dir)
        for name in ("val_set", "output", "base_model", "base", "train_set", "state_dir", "curve_earlier"):
            path = getattr(self, name)
            may_be_absent = name not in ("val_set", "output")
            if name == "val_set" and isinstance(path, Mapping):
                _refuse_sets(path)
            elif not isinstance(path, (str, os.PathLike)) and not (path is None and may_be_absent):
                raise ValueError(f"`{name}` must be a path, but is {path!r}.")
        _refuse_weights(self.judge_by, tuple(self.val_sets))
        refuse_adapter_arguments(self.adapter_space, self.adapter_rank, self.adapter_error)
        for name in ("no_set_worse", "diagnose"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` must be True or False, but is {getattr(self, name)!r}.")
        for name, value, known in (
            ("dtype", self.dtype, tuple(OUTPUT_DTYPES)),
            ("train_set_use", self.train_set_use, TRAIN_SET_USES),
            ("output_format", self.output_format, OUTPUT_FORMATS),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, but is {value!r}.")
        if not isinstance(self.select_fraction, (int, float)) or not 0 < self.select_fraction < 1:
            raise ValueError(f"`select_fraction` must be between 0 and 1, but is {self.select_fraction!r}.")
        for name, number, least in (("seed", self.seed, 0), ("max_shard_bytes", self.max_shard_bytes, 1)):
            refuse_number(name, number, least)

        self.curve_options.refuse_bad()
        refuse_other_kind(self.kind, **{name: getattr(self, name) for name in OF_AN_AVERAGE})

    @property
    def curve_options(self) -> CurveOptions:
        """Of a merge curve."""
        return CurveOptions(every=self.curve_every, shapes=self.curve_shapes or SHAPES, windows=self.curve_windows)

    @property
    def val_sets(self) -> dict[str, Path]:
        """The validation sets by name; the only one of a job that names none is called ``."""
        given = self.val_set if isinstance(self.val_set, Mapping) else {"": self.val_set}
        return {name: Path(path) for name, path in given.items()}

    @property
    def named_sets(self) -> NamedSets:
        """Which of them judge, and how much each counts."""
        if not isinstance(self.val_set, Mapping):
            return NamedSets()
        names = tuple(self.val_set)
        if isinstance(self.judge_by, Mapping):
            weights = {name: float(self.judge_by[name]) for name in names if name in self.judge_by}
        else:
            weights = dict.fromkeys(names if self.judge_by == MEAN else names[:1], 1.0)
        total = sum(weights.values())
        return NamedSets(names=names, weights={name: weight / total for name, weight in weights.items()})

    @property
    def data_paths(self) -> tuple[Path, ...]:
        """The validation sets and, where there is one, the training set."""
        return tuple(self.data.values())

    @property
    def data(self) -> dict[str, Path]:
        """The same by the arguments' names, a set of several as `val_set.NAME`."""
        sets = {f"val_set.{name}" if name else "val_set": path for name, path in self.val_sets.items()}
        return sets if self.train_set is None else sets | {"train_set": Path(self.train_set)}

    def deciding_settings(self, task: Task, *, with_paths: bool = True) -> dict[str, Any]:
        """What decides the result, as plain JSON values; `task` is the one that was chosen."""
        settings = {
            each.name: _plain(getattr(self, each.name))
            for each in fields(self)
            if each.metadata.get("decides") and (with_paths or not each.metadata.get("is_path"))
        }
        if (sets := self.named_sets).names:
            # Their order is that of what is known of their examples, and a mapping has none in JSON.
            settings |= {"judge_by": dict(sets.weights), "validation_sets": list(sets.names)}
        return settings | {"task": task.name}


def refuse_other_kind(kind: object, **given: object) -> None:
    """Raises `ValueError` for a kind that there is not, and for what asks for an average, of a curve."""
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, but is {kind!r}.")
    for name, value in given.items() if kind == CURVE else ():
        if value not in (OF_AN_AVERAGE[name], {}):
            raise ValueError(f"`{name}` must be {OF_AN_AVERAGE[name]!r} with `kind` {CURVE}, but is {value!r}.")


def _refuse_sets(sets: Mapping[Any, Any]) -> None:
    if not 1 <= len(sets) <= MOST_SETS:
        raise ValueError(f"`val_set` must have from 1 to {MOST_SETS} sets, but has {len(sets)}.")
    for name, path in sets.items():
        if not isinstance(name, str) or not SET_NAME.fullmatch(name):
            raise ValueError(
                f"`val_set` must have names of letters, digits, `_`, `.` and `-` that begin with a letter or a digit, "
                f"at most 100 of them, but has {name!r}."
            )
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(f"`val_set` must have a path for each name, but has {path!r} for `{name}`.")


def _refuse_weights(judge_by: Any, names: Sequence[str]) -> None:
    bounds = f"from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}"
    rule = f"`judge_by` must be `{FIRST}`, `{MEAN}`, or a mapping from names of sets to weights {bounds}"
    if not isinstance(judge_by, Mapping):
        if judge_by not in (FIRST, MEAN):
            raise ValueError(f"{rule}, but is {judge_by!r}.")
        return
    if not judge_by or any(not _is_weight(weight) for weight in judge_by.values()):
        raise ValueError(f"{rule}, but is {dict(judge_by)!r}.")
    if unknown := [name for name in judge_by if name not in names or name == ""]:
        known = ", ".join(f"`{name}`" for name in names if name) or "none: give `val_set` as a mapping"
        raise ValueError(f"`judge_by` must name sets of `val_set`, but names {unknown[0]!r}. There are {known}.")


def _is_weight(weight: Any) -> bool:
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    return is_number and LEAST_WEIGHT <= weight <= MOST_WEIGHT


def refuse_number(name: str, number: object, least: int) -> None:
    """Raises `ValueError` for what is not a whole number of the size that files and torch take."""
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number < 2**63:
        raise ValueError(f"`{name}` must be a whole number from {least} to 2^63 - 1, but is {number!r}.")


def refuse_adapter_arguments(space: object, rank: object, error: object) -> None:
    """Raises `ValueError` for what is none of the spaces, ranks and errors that there are."""
    if space not in SPACES:
        raise ValueError(f"`adapter_space` must be one of {', '.join(SPACES)}, but is {space!r}.")
    if rank is not None and (type(rank) is not int or not 1 <= rank <= MOST_RANK):
        raise ValueError(f"`adapter_rank` must be a whole number from 1 to {MOST_RANK:,}, but is {rank!r}.")
    if error is not None and (type(error) not in (int, float) or not 0 <= error < 1):  # type: ignore[operator]
        raise ValueError(f"`adapter_error` must be at least 0 and below 1, but is {error!r}.")
    if rank is not None and error is not None:
        raise ValueError(f"`adapter_error` must be absent where `adapter_rank` is given, but is {error!r}.")
    if space != DELTA and (rank is not None or error is not None):
        name = "adapter_rank" if rank is not None else "adapter_error"
        raise ValueError(f"`{name}` must be absent with `adapter_space` {space}, where ranks stay as they are.")


def _plain(value: Any) -> Any:
    """As it goes into JSON: paths as text, sequences as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value

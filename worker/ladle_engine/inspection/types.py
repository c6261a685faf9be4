"""What an inspection found, as plain values: `Inspection.to_json` is what the command and the service give out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why something cannot be used."""

    code: str
    """As of an `EngineError`."""
    message: str
    """For people, with what to do."""


@dataclass(frozen=True, kw_only=True)
class InspectedCheckpoint:
    """One checkpoint, usable or not."""

    name: str
    """Its path relative to the folder."""
    format: str
    """`safetensors`, `pickle` and so on."""
    step: int | float | None = None
    """The step or, where there is none, the epoch or number that it is ordered by."""
    step_from: str | None = None
    """`trainer state` for a file that the trainer left, `name` for a number in the name."""
    size_bytes: int = 0
    """Of its weight files together."""
    num_files: int = 0
    dtype: str | None = None
    """Of the floating tensors, the largest share first: `bfloat16`, `float16, float32`. None where none was read."""
    num_tensors: int | None = None
    num_parameters: int | None = None
    """Numbers in floating tensors."""
    architecture: int | None = None
    """Checkpoints whose tensors have the same names and shapes have the same number, from 1 on. Adapters of different
    ranks have, too, where they are averaged by what they add."""
    duplicate_of: str | None = None
    """The checkpoint with the same weights that counts in its place."""
    duplicate_is_certain: bool = True
    """False where only headers and samples of the weights were compared."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was found beside it, by name."""
    taken: bool = False
    """Whether it would take part in the average."""
    problem: Problem | None = None
    """Why it cannot be used; None where it can."""
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return self.problem is None


@dataclass(frozen=True, kw_only=True)
class LeftAside:
    """Something that might be taken for a checkpoint, and why it is not one."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class InspectedBase:
    """The ancestor that was named, and whether it goes with the checkpoints."""

    name: str
    """Of the checkpoint of the folder that it is, or `base:` and the last part of its path; what was given, where it is
    not there."""
    size_bytes: int = 0
    """Of its weight files together."""
    problem: Problem | None = None
    """Why it cannot be their base; None where it can."""
    distances: tuple[float, ...] = ()
    """Of each checkpoint that takes part, in order, from it; only where weights were read (`forecast`)."""

    @property
    def fits(self) -> bool:
        return self.problem is None


@dataclass(frozen=True, kw_only=True)
class PlannedMemory:
    """How directions would be kept on this machine with one rank, without what a batch takes."""

    placement: str
    precision: str
    needed_bytes: int
    available_bytes: int


@dataclass(frozen=True, kw_only=True)
class AutoPlan:
    """What `average` would do. Whatever could not be found out is None, and `Inspection.problems` says why."""

    kind: str
    """What it would make: `average`, or `curve`, with as many averages as run along by default."""
    checkpoints: tuple[str, ...]
    """Those that take part, in order."""
    order: str
    """What the order is by: `step`, `epoch and step`, `number in the name`."""
    methods: tuple[str, ...] = ()
    """That would run, in order."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Grouping of a method that trains coefficients -> how many groups the model has then."""
    task: str | None = None
    metric: str | None = None
    """What candidates would be judged by."""
    model: str | None = None
    """The class of the task's model."""
    num_parameters: int = 0
    """Without buffers, such as BatchNorm's statistics, where the model was compared with the files."""
    dtype: str = ""
    memory: PlannedMemory | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A folder of checkpoints, and what would be done with it."""

    folder: str
    usable: bool
    """Whether `average` would begin, as far as headers say."""
    problems: tuple[Problem, ...] = ()
    """What stands in the way of it, the first one first."""
    checkpoints: tuple[InspectedCheckpoint, ...] = ()
    """In order; what cannot be used comes last."""
    passed_over: tuple[LeftAside, ...] = ()
    warnings: tuple[str, ...] = ()
    plan: AutoPlan | None = None
    """With whatever can be used, even where something stands in the way; None where nothing can."""
    base: InspectedBase | None = None
    """Where one was given."""
    forecast: Mapping[str, Any] | None = None
    """What averaging is expected to bring (docs/forecast.md), where it was asked for and can be told."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; docs/inspect.md has the fields."""
        plain = asdict(self)
        for row, each in zip(plain["checkpoints"], self.checkpoints, strict=True):
            row["usable"] = each.usable
        if self.base is not None:
            plain["base"]["fits"] = self.base.fits
        return plain

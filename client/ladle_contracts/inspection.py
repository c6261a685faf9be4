"""An inspection: what is in a folder of checkpoints, and what a job would do with it, as far as headers say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ladle_contracts._model import Contract
from ladle_contracts.field_types import PathText
from ladle_contracts.job_spec import Adapters, CheckpointFilter, HasCkptDir, MethodChoice, TaskChoice

INSPECT_TIMEOUT_S = 60.0
"""How long a worker may take, with the time until one is there for it."""
MOST_ANSWER_BYTES = 4 << 20
"""Of an inspection by a worker. Of what does not fit, the number is given."""


class InspectRequest(HasCkptDir):
    """What to inspect: the parts of a job that are not about data."""

    checkpoints: CheckpointFilter = CheckpointFilter()
    """Which checkpoints of the folder take part."""
    kind: Literal["average", "curve"] = "average"
    """What a job would make. The plan is for this one."""
    task: TaskChoice | None = None
    """What the checkpoints were trained to do."""
    adapters: Adapters = Adapters()
    """How LoRA adapters are averaged, where the checkpoints are such."""
    method: MethodChoice = MethodChoice()
    """How the coefficients are chosen."""
    base: PathText | None = None
    """The model that the checkpoints were trained from, as in a job."""
    forecast: bool = False
    """Also read a part of the weights, up to 256 MiB, and tell what averaging is expected to bring."""


class InspectionProblem(Contract):
    """Why something cannot be used."""

    code: str
    """A reason as of a job that failed, such as `corrupt-checkpoint`."""
    message: str
    """For people, with what to do."""


class InspectedCheckpoint(Contract):
    """One checkpoint, usable or not."""

    name: str
    """Its path relative to the folder."""
    format: str
    """`safetensors`, `pickle` and so on."""
    step: int | float | None = None
    """The step or, where there is none, the epoch or number that it is ordered by."""
    step_from: str | None = None
    """`trainer state` for a file that the trainer left, `name` for a number in the name."""
    size_bytes: int
    """Of its weight files together."""
    num_files: int
    """How many weight files it has."""
    dtype: str | None = None
    """Of the floating tensors, the largest share first: `bfloat16`, or `float16, float32`."""
    num_tensors: int | None = None
    """Absent where its header could not be read."""
    num_parameters: int | None = None
    """How many numbers its floating tensors hold."""
    architecture: int | None = None
    """Checkpoints whose tensors have the same names and shapes have the same number, from 1 on. Adapters of different
    ranks have, too, where they are averaged by what they add."""
    duplicate_of: str | None = None
    """The checkpoint with the same weights that counts in its place."""
    duplicate_is_certain: bool = True
    """False where only headers and samples of the weights were compared."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Metrics that were found beside it, by name."""
    taken: bool
    """Whether it would take part in the average."""
    usable: bool
    """Whether it can be read and goes with the others."""
    problem: InspectionProblem | None = None
    """Why it cannot be used."""
    notes: tuple[str, ...] = ()
    """What was decided about it that people should know."""


class LeftAside(Contract):
    """Something that might be taken for a checkpoint, and why it is not one."""

    name: str
    reason: str


class InspectedBase(Contract):
    """The base that was given."""

    name: str
    """Of the checkpoint of the folder that it is, or `base:` and the last part of its path; what was given, where that
    is not there."""
    size_bytes: int = 0
    """Of its weight files together."""
    fits: bool
    """Whether it is there and has the checkpoints' tensors."""
    problem: InspectionProblem | None = None
    """Why it cannot be their base."""
    distances: tuple[float, ...] = ()
    """How far each checkpoint that takes part is from it, in order; only with `forecast`."""


class Expected(Contract):
    """What one average is expected to gain."""

    lower: float
    """By which share its loss is expected to be lower than that of the best checkpoint; below 0 where higher."""
    low: float
    """Where the interval of that share begins."""
    high: float
    """Where it ends."""
    goes_by: tuple[str, ...] = ()
    """The features that it goes by. None: it is what most sets gained, whatever their features."""
    error_points: float
    """The mean absolute error on kinds of data that it was not fitted to, in percent of the loss."""
    covered: float
    """The share of the sets of such kinds that lay in such an interval."""
    beyond: tuple[str, ...] = ()
    """The features that are beyond all that it was fitted to."""


class Forecast(Contract):
    """What averaging is expected to bring, from the single checkpoints alone."""

    result: Expected
    """Of what `auto` chooses by the loss."""
    mean: Expected
    """Of the mean of all."""
    sets: int
    """To how many sets it was fitted."""
    families: int
    """Of how many kinds of data they are."""
    decayed: bool
    """Whether the moves between checkpoints say that the learning rate had decayed."""
    gains_of_decayed: tuple[float, float, float]
    """What averages gained where it had: a share below which a tenth of the sets lay, the median, and the share above
    which a tenth lay."""
    features: dict[str, float]
    """What was seen; docs/forecast.md says what each is."""


class PlannedMemory(Contract):
    """How directions would be kept by one rank there, without what a batch takes."""

    placement: str
    precision: str
    needed_bytes: int
    available_bytes: int


class AutoPlan(Contract):
    """What a job would do. Whatever could not be found out is absent, and `problems` says why."""

    kind: str = "average"
    """What it would make: `average`, or `curve`, with as many averages as run along by default."""
    checkpoints: tuple[str, ...]
    """Those that take part, in order."""
    order: str
    """What the order is by: `step`, `epoch and step`, `number in the name`."""
    methods: tuple[str, ...] = ()
    """Those that would run, in order."""
    groups: dict[str, int] = Field(default_factory=dict)
    """A grouping of a method that trains coefficients, and how many groups the model has then."""
    task: str | None = None
    metric: str | None = None
    """What candidates would be judged by."""
    model: str | None = None
    """The class of the task's model."""
    num_parameters: int
    """Without buffers, such as BatchNorm's statistics, where the model was compared with the files."""
    dtype: str
    memory: PlannedMemory | None = None


class Inspection(Contract):
    """A folder of checkpoints, and what a job would do with it."""

    folder: str
    usable: bool
    """Whether a job would begin, as far as headers say. It says nothing about data."""
    problems: tuple[InspectionProblem, ...] = ()
    """What stands in the way of it, the first one first."""
    checkpoints: tuple[InspectedCheckpoint, ...] = ()
    """In order. What cannot be used comes last."""
    passed_over: tuple[LeftAside, ...] = ()
    """What might be taken for a checkpoint and is none."""
    warnings: tuple[str, ...] = ()
    plan: AutoPlan | None = None
    """With whatever can be used, even where something stands in the way. Absent where nothing can."""
    base: InspectedBase | None = None
    """Where one was given."""
    forecast: Forecast | None = None
    """Where it was asked for, and can be told."""
    not_listed: int = 0
    """How many checkpoints and other entries are left out of an answer that would be too large."""


def shortened(inspection: Inspection, most_bytes: int = MOST_ANSWER_BYTES) -> Inspection:
    """The same with as few entries as it takes to be no longer, as JSON."""
    left_out = 0
    while len(inspection.model_dump_json()) > most_bytes:
        parts = {name: getattr(inspection, name) for name in ("checkpoints", "passed_over", "warnings", "problems")}
        kept = {name: entries[: len(entries) // 2] for name, entries in parts.items()}
        plan = inspection.plan
        if plan is not None:
            kept["plan"] = plan.model_copy(update={"checkpoints": plan.checkpoints[: len(plan.checkpoints) // 2]})
        left_out += sum(len(parts[name]) - len(kept[name]) for name in ("checkpoints", "passed_over"))
        inspection = inspection.model_copy(update={**kept, "not_listed": left_out})
    return inspection

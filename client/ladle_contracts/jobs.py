"""A job: what is asked for (`JobSpec`), what is known about it (`JobRecord`), what came out (`JobResult`)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator

from ladle_contracts._model import Contract
from ladle_contracts.errors import Reason

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
"""Names of tasks, methods and metrics: lower case, as in `image-classification`."""

PathText = Annotated[str, Field(min_length=1, max_length=4096)]
"""A path as the worker sees it. It must resolve inside an allowed root."""

FolderName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+=@-]*$")]
"""One path component; it never starts with a dot."""

Label = Annotated[str, Field(max_length=200)]


class JobState(StrEnum):
    """Where a job is in its life. A terminal state never changes."""

    QUEUED = "queued"
    """Waits for nodes; `waiting_for` says for what."""
    SCHEDULED = "scheduled"
    """Nodes are reserved for it; they have not all claimed it yet."""
    RUNNING = "running"
    """Its ranks read, train and judge."""
    FINALIZING = "finalizing"
    """The model is written, verified and being moved to its place."""
    CANCELLING = "cancelling"
    """A cancel was asked for; processes are being ended."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class TaskChoice(Contract):
    """Which task the checkpoints solve. Without a name it is inferred from the folder's `config.json`."""

    name: Name | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict)


class MethodChoice(Contract):
    """How the coefficients are chosen: `auto` tries the usual ones and keeps the best, or one method by name."""

    name: Name = "auto"
    options: dict[str, JsonValue] = Field(default_factory=dict)


class CheckpointFilter(Contract):
    """Which checkpoints of the folder take part. The three conditions are combined."""

    pattern: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """A glob on the checkpoint's path relative to the folder, such as `checkpoint-*`."""
    last: Annotated[int, Field(ge=1)] | None = None
    """Only the last n by step."""
    steps: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    """Only these steps; a missing one is an error."""


class TrainSet(Contract):
    """The training data, if Ladle may use it."""

    path: PathText
    use: Literal["coefficients", "batchnorm"] = "coefficients"
    """`coefficients`: train the coefficients on it (TWA-t) instead of on the fit split.
    `batchnorm`: recompute BatchNorm statistics on it instead of on the fit split."""


class Output(Contract):
    """The result's folder, inside the operator's results folder."""

    name: FolderName | None = None
    """The folder's name; the job's id when absent. An existing one is an error."""
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep"
    """`keep` is the checkpoints' own."""
    max_shard_bytes: Annotated[int, Field(ge=1 << 20)] = 5_000_000_000


class Resources(Contract):
    """How many nodes at once, and how many ranks (processes) on each."""

    nodes: Annotated[int, Field(ge=1, le=1)] = 1
    """One, in this version: the state machine reserves several, but ranks do not find each other across nodes yet."""
    ranks_per_node: Annotated[int, Field(ge=1, le=64)] = 1
    placement: Literal["auto", "replicated", "by-parameter", "by-node", "by-checkpoint", "sharded-model"] = "auto"
    """How directions lie over the ranks; `auto` takes what fits and sends least."""
    precision: Literal["auto", "float32", "bfloat16", "int8", "int4", "offload", "streamed"] = "auto"
    """How directions are kept; `auto` takes the finest that fits. The result is recomputed from the checkpoints."""


class JobSpec(Contract):
    """What a person asks for. Everything but the two paths has a default."""

    ckpt_dir: PathText
    val_set: PathText
    task: TaskChoice | None = None
    method: MethodChoice = MethodChoice()
    checkpoints: CheckpointFilter = CheckpointFilter()
    train_set: TrainSet | None = None
    select_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """The share of the validation set that judges the candidates and never trains."""
    metric: Name | None = None
    """What candidates are judged by; the task's first metric when absent."""
    output: Output = Output()
    resources: Resources = Resources()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """A higher one runs first; equal ones by submit time."""
    labels: Annotated[dict[str, Label], Field(max_length=50)] = Field(default_factory=dict)

    @field_validator("ckpt_dir", "val_set")
    @classmethod
    def _no_nul(cls, path: str) -> str:
        if "\0" in path:
            raise ValueError("a path must not hold a NUL character")
        return path


class Progress(Contract):
    """The newest snapshot of a running attempt; the event stream has the history."""

    stage: str = ""
    """`discover`, `check`, `measure`, `evaluate`, `train`, `select`, `write`, `verify`."""
    stage_done: int = 0
    stage_total: int = 0
    """How much of the stage is done, in the stage's own units; 0 of 0 when it has none."""
    method: str | None = None
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    eta_s: float | None = None
    """Seconds left in this stage, estimated from its pace."""
    candidates: tuple[CandidateResult, ...] = ()


class CandidateResult(Contract):
    """One method's coefficients with its score."""

    method: Name
    label: str
    """For people: `greedy-soup (5 of 16)`."""
    select: dict[str, float]
    """Metric -> value on the select split."""
    fit: dict[str, float] = Field(default_factory=dict)
    """Metric -> value on the fit split."""
    gain: float | None = None
    """On the select split, in the judging metric, oriented so that more is better: this candidate minus the best
    checkpoint."""
    gain_low: float | None = None
    gain_high: float | None = None
    """The paired 95 % confidence interval of `gain`."""


class JobResult(Contract):
    """What came out of a job that succeeded."""

    folder: str
    """The output folder, as the worker sees it."""
    method: Name
    """The winner. `best` means that no average was better than the best checkpoint, and that is what was written."""
    metric: Name
    higher_is_better: bool
    candidates: tuple[CandidateResult, ...]
    best_checkpoint: str
    gain: float
    gain_low: float
    gain_high: float
    num_checkpoints: int
    num_parameters: int
    duration_s: float
    warnings: tuple[str, ...] = ()
    files: dict[str, int]
    """File name -> size in bytes."""


class JobRecord(Contract):
    """All that is known about a job."""

    id: str
    spec: JobSpec
    state: JobState
    created_at: datetime
    started_at: datetime | None = None
    """When the first attempt was claimed."""
    finished_at: datetime | None = None
    attempt: int = 0
    """The number of the newest attempt, which is also its fencing token; 0 before the first."""
    failures: int = 0
    """Attempts that ended by a crash or a lost node. A cancel, or a wake-up that nobody answered, is none."""
    max_failures: int = 3
    nodes: tuple[str, ...] = ()
    """The nodes the newest attempt holds or held."""
    waiting_for: str | None = None
    """Why a queued job waits: `needs 2 nodes, 1 free`."""
    reason: Reason | None = None
    """Why a failed job failed, or a cancelled one was; stable."""
    message: str | None = None
    """The reason in words: the thing, the rule and the value."""
    log_tail: tuple[str, ...] = ()
    """The last lines of the failed attempt's log."""
    progress: Progress = Progress()
    result: JobResult | None = None


class JobPage(Contract):
    """One page of jobs, newest first."""

    jobs: tuple[JobRecord, ...]
    next_cursor: str | None = None


Progress.model_rebuild()

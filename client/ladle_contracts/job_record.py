"""What is known about a job (`JobRecord`), and what came out (`JobResult`)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BeforeValidator, Field

from ladle_contracts._model import Contract, OpenEnum
from ladle_contracts.errors import WrittenReason
from ladle_contracts.field_types import Name
from ladle_contracts.job_spec import WrittenSpec


class JobState(OpenEnum):
    """The state of a job. A terminal state never changes."""

    QUEUED = "queued"
    """It waits for nodes. `waiting_for` says what is missing."""
    SCHEDULED = "scheduled"
    """Nodes are reserved for it, but not all of them have claimed it yet."""
    RUNNING = "running"
    """Its ranks read, train and judge."""
    FINALIZING = "finalizing"
    """The model is written and verified, and is being moved to its place."""
    CANCELLING = "cancelling"
    """It was cancelled, and its processes are being ended."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def past_tense(self) -> str:
        """For a sentence about a job that has ended: "it has already" `succeeded`, `failed` or `been cancelled`."""
        return "been cancelled" if self is JobState.CANCELLED else str(self)


WrittenState = Annotated[JobState, BeforeValidator(JobState.read)]
"""A state that another process has written."""

TERMINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Progress(Contract):
    """The latest snapshot of a running attempt. The event stream has the history."""

    stage: str = ""
    """`discover`, `check`, `evaluate`, `train`, `select`, `diagnose`, `write`, `verify`."""
    stage_done: int = 0
    stage_total: int = 0
    """How much of the stage is done, in the stage's own units. 0 of 0 if it has none."""
    method: str | None = None
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    eta_s: float | None = None
    """Seconds left in this stage, estimated from its pace."""
    rate: float | None = None
    """How many `unit` are done per second, on average since the stage began."""
    unit: str | None = None
    """`steps`, `examples`, `checkpoints` or `bytes`."""
    candidates: tuple[CandidateResult, ...] = ()


class SetResult(Contract):
    """A candidate's score on one of several validation sets."""

    select: dict[str, float]
    """Metric -> value on the select split of this set."""
    gain: float
    gain_low: float
    gain_high: float
    """Over the best checkpoint, as those of the candidate."""


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
    """How much better than the best checkpoint this candidate is on the select split, in the metric that judges. It is
    positive when the candidate is better, also when a lower metric is better."""
    gain_low: float | None = None
    gain_high: float | None = None
    """The paired 95 % confidence interval of `gain`: while a job runs, of this comparison alone; in its result, one
    that holds for all candidates at once."""
    sets: dict[str, SetResult] = Field(default_factory=dict)
    """Name of a validation set -> the score on it; empty where the only set has no name."""


class JobResult(Contract):
    """The result of a job that succeeded."""

    folder: str
    """The output folder, as the worker sees it."""
    method: Name
    """The winner. `best` means that no average was better than the best checkpoint beyond chance or by a lower loss;
    that was written as it is."""
    metric: Name
    higher_is_better: bool
    candidates: tuple[CandidateResult, ...]
    best_checkpoint: str
    gain: float
    gain_low: float
    gain_high: float
    visible_gain: float | None = None
    """The gain that the select split shows with a probability of 80 %. This and the next are of the winner or, where
    that is the best checkpoint, of the average with the largest gain. None in results of earlier versions, whose
    intervals are of each comparison alone."""
    examples_needed: int | None = None
    """How many examples show a gain of the size that was measured, with that probability. None where it is 0, or has
    been seen: where its interval does not include 0."""
    num_checkpoints: int
    num_parameters: int
    duration_s: float
    warnings: tuple[str, ...] = ()
    tensors_taken: dict[str, int] = Field(default_factory=dict)
    """Checkpoint -> how many tensors of the model are this checkpoint's as they are, because `checkpoints.skip_tensors`
    or `checkpoints.take_from` leaves them out of the average. `report.json` names them."""
    files: dict[str, int]
    """File name -> size in bytes."""
    words: tuple[str, ...] = ()
    """What a merge curve says: where averaging pays, and whether going on with the training would. Empty for an
    average."""
    forecast: str = ""
    """What the single checkpoints alone promised of averaging, in a sentence. Empty where that cannot be told, and of a
    merge curve."""


class JobRecord(Contract):
    """Everything that is known about a job."""

    id: str
    spec: WrittenSpec
    state: WrittenState
    created_at: datetime
    started_at: datetime | None = None
    """When the first attempt was claimed."""
    finished_at: datetime | None = None
    output_name: str | None = None
    """The name of the result's folder, also before there is one. None in records of earlier versions."""
    attempt: int = 0
    """The number of the latest attempt, which is also its fencing token. 0 before the first."""
    failures: int = 0
    """How many attempts ended by the job's own failure, such as ranks that crashed."""
    node_failures: int = 0
    """How many attempts ended because of a node: it was lost, not ready in time, or is broken."""
    max_failures: int = 3
    nodes: tuple[str, ...] = ()
    """The nodes that the latest attempt uses or used."""
    waiting_for: str | None = None
    """Why a queued job waits: `needs 2 nodes, 1 free`; or a running one, in the queue of Slurm or Kubernetes."""
    queue_position: int | None = None
    """About where it is in the queue: 1 is next."""
    starts_in_s: float | None = None
    """In about how many seconds it starts. None if nothing is known yet."""
    reason: WrittenReason | None = None
    """Why the job failed or was cancelled, as a stable code."""
    message: str | None = None
    """The reason in words."""
    log_tail: tuple[str, ...] = ()
    """The last lines of the failed attempt's log."""
    progress: Progress = Progress()
    result: JobResult | None = None


class JobPage(Contract):
    """One page of jobs, newest first."""

    jobs: tuple[JobRecord, ...]
    next_cursor: str | None = None


Progress.model_rebuild()

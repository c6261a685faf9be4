"""What happens to a job, in order. Each event is one entry of the job's Redis stream; the entry's id is the event's id.

A rank writes `EventBody` lines (JSON, one a line) for its node agent; the agent gives them to Redis; the API sends
`Event` to clients. Only `StateChanged` is written by the job's life itself (the Lua transitions).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from ladle_contracts._model import Contract
from ladle_contracts.errors import Reason
from ladle_contracts.jobs import CandidateResult, JobState


class StateChanged(Contract):
    """The job moved to another state."""

    kind: Literal["state"] = "state"
    state: JobState
    reason: Reason | None = None
    message: str | None = None


class StageStarted(Contract):
    """The engine began a stage: see `Progress.stage` for the names."""

    kind: Literal["stage"] = "stage"
    stage: str
    method: str | None = None
    total: int = 0
    """How many units the stage has; 0 when unknown."""


class CheckpointsFound(Contract):
    """The folder was read: these checkpoints take part, in this order."""

    kind: Literal["checkpoints"] = "checkpoints"
    names: tuple[str, ...]
    num_parameters: int
    dtype: str
    task: str
    order: str = ""
    """What the order is by: `step`, `epoch and step`, `number in the name`, `name` and so on."""


class MemoryPlanned(Contract):
    """How the directions are to be kept, and what that takes on each rank."""

    kind: Literal["memory"] = "memory"
    placement: str
    precision: str
    parts: dict[str, int]
    """`model`, `centre`, `directions`, `gradient`, `activations`, `vectors`, `geometry`: bytes."""
    available_bytes: int
    reason: str


class StepDone(Contract):
    """Progress inside a stage. Sent a few times a second at most, not at every step."""

    kind: Literal["step"] = "step"
    stage: str
    method: str | None = None
    step: int
    total: int
    loss: float | None = None
    eta_s: float | None = None


class CandidateScored(Contract):
    """A candidate was judged on the select split."""

    kind: Literal["candidate"] = "candidate"
    candidate: CandidateResult


class Warned(Contract):
    """Something a person should know; the job goes on."""

    kind: Literal["warning"] = "warning"
    message: str


EventBody = Annotated[
    StateChanged | StageStarted | CheckpointsFound | MemoryPlanned | StepDone | CandidateScored | Warned,
    Field(discriminator="kind"),
]
EVENT_BODY: TypeAdapter[EventBody] = TypeAdapter(EventBody)


class Event(Contract):
    """One entry of a job's event stream."""

    id: str
    """The Redis stream id, such as `1764000000000-0`: ordered, and a legal SSE id."""
    job_id: str
    attempt: int
    time: datetime
    body: EventBody

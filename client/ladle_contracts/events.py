"""What happens to a job, in order. Each event is one entry of the job's Redis stream; the entry's id is the event's id.

A rank writes one `EventBody` per line (JSON) for its node agent, the agent sends them to Redis, and the API sends
`Event` to clients. Only `StateChanged` comes from elsewhere: the Lua scripts that change the job's state write it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from ladle_contracts._model import Contract
from ladle_contracts.errors import WrittenReason
from ladle_contracts.job_record import CandidateResult, WrittenState


class StateChanged(Contract):
    """The job moved to another state."""

    kind: Literal["state"] = "state"
    state: WrittenState
    reason: WrittenReason | None = None
    message: str | None = None


class StageStarted(Contract):
    """The engine began a stage. `Progress.stage` has the names."""

    kind: Literal["stage"] = "stage"
    stage: str
    method: str | None = None
    total: int = 0
    """How many units the stage has. 0 if that is unknown."""


class CheckpointsFound(Contract):
    """The folder was read. These checkpoints take part, in this order."""

    kind: Literal["checkpoints"] = "checkpoints"
    names: tuple[str, ...]
    num_parameters: int
    dtype: str
    task: str
    order: str = ""
    """What the order is by: `step`, `epoch and step`, `number in the name`, `name` and so on."""


class MemoryPlanned(Contract):
    """How the directions are stored, and how much memory each rank needs."""

    kind: Literal["memory"] = "memory"
    placement: str
    precision: str
    parts: dict[str, int]
    """`model`, `centre`, `directions`, `gradient`, `activations`, `vectors`, `geometry`: bytes."""
    available_bytes: int
    reason: str


class StepDone(Contract):
    """Progress within a stage. Sent at most a few times per second, not at every step."""

    kind: Literal["step"] = "step"
    stage: str
    method: str | None = None
    step: int
    total: int
    loss: float | None = None
    eta_s: float | None = None
    """Seconds left in this stage, estimated from its pace."""
    rate: float | None = None
    """How many `unit` are done per second, on average since the stage began."""
    unit: str | None = None
    """`steps`, `examples` or `bytes`. None where only `step` counts."""


class CandidateScored(Contract):
    """A candidate was judged on the select split."""

    kind: Literal["candidate"] = "candidate"
    candidate: CandidateResult


class Warned(Contract):
    """Something that a person should know. The job continues."""

    kind: Literal["warning"] = "warning"
    message: str


class UnknownEvent(Contract):
    """An event of a newer version: of a kind that this one does not know, or with other fields. They are all kept."""

    kind: str


KnownEvent = Annotated[
    StateChanged | StageStarted | CheckpointsFound | MemoryPlanned | StepDone | CandidateScored | Warned,
    Field(discriminator="kind"),
]
EventBody = Annotated[KnownEvent | UnknownEvent, Field(union_mode="left_to_right")]
_EVENT_BODY: TypeAdapter[EventBody] = TypeAdapter(EventBody)


def read_event_body(text: str | bytes) -> EventBody:
    """From JSON that a rank, an agent or a script has written."""
    return _EVENT_BODY.validate_json(text, extra="allow")


class Event(Contract):
    """One entry of a job's event stream."""

    id: str
    """The Redis stream id, such as `1764000000000-0`. Ids are ordered, and valid as SSE ids."""
    job_id: str
    attempt: int
    time: datetime
    body: EventBody

"""Every request of the REST API as a value: what to send, and how to read the answer. There is no I/O here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from ladle._errors import LadleError, UnexpectedAnswer, error_of
from ladle_contracts import Inspection, InspectRequest, JobPage, JobRecord, JobResult, JobSpec, JobState, Problem
from ladle_contracts._model import Contract
from ladle_contracts.api import (
    IDEMPOTENCY_HEADER,
    LAST_EVENT_HEADER,
    EventPage,
    LogTail,
    MethodList,
    NodeChange,
    NodeList,
    TaskList,
    Version,
    WebhookSecret,
)
from ladle_contracts.inspection import INSPECT_TIMEOUT_S

T = TypeVar("T")
M = TypeVar("M", bound=Contract)

SPARE_S = 10.0
"""For what comes before and after the work that a service waits for."""
PAGE = 200
"""How many jobs or events are asked for at once."""


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """One request."""

    method: str
    path: str
    parse: Callable[[bytes], T]
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    timeout_s: float | None = None
    """How long to wait for the answer, where that is longer than usual."""
    repeatable: bool = True
    """Sending it twice has the same effect as sending it once, so it is sent again when the answer was lost."""


def submit_job(spec: JobSpec, idempotency_key: str) -> Call[JobRecord]:
    """Repeatable, because for the same key the service returns the same job."""
    return Call(
        method="POST",
        path="/v1/jobs",
        parse=_reader(JobRecord),
        headers={"Content-Type": "application/json", IDEMPOTENCY_HEADER: idempotency_key},
        content=spec.model_dump_json(exclude_unset=True).encode(),
    )


def get_job(job_id: str) -> Call[JobRecord]:
    """The record."""
    return Call(method="GET", path=_job_path(job_id), parse=_reader(JobRecord))


def list_jobs(
    *,
    state: JobState | str | None = None,
    labels: Mapping[str, str] | None = None,
    cursor: str | None = None,
    limit: int = PAGE,
) -> Call[JobPage]:
    """One page, newest first."""
    params = [("limit", str(limit))]
    if state is not None:
        params.append(("state", JobState(state).value))
    params += [("label", _sendable(f"{name}={value}")) for name, value in (labels or {}).items()]
    if cursor is not None:
        params.append(("cursor", cursor))
    return Call(method="GET", path="/v1/jobs", params=tuple(params), parse=_reader(JobPage))


def cancel_job(job_id: str) -> Call[JobRecord]:
    """Repeatable, because cancelling twice changes nothing."""
    return Call(method="POST", path=_job_path(job_id, "cancel"), parse=_reader(JobRecord))


def delete_job(job_id: str) -> Call[None]:
    """Not repeatable, because the second time the job is not found."""
    return Call(method="DELETE", path=_job_path(job_id), parse=lambda _: None, repeatable=False)


def get_events(job_id: str, after: str | None = None, limit: int = PAGE) -> Call[EventPage]:
    """One page, oldest first."""
    params = [("limit", str(limit))] + ([("after", after)] if after else [])
    return Call(method="GET", path=_job_path(job_id, "events"), params=tuple(params), parse=_reader(EventPage))


def follow_events(job_id: str, after: str | None) -> Call[None]:
    """The event stream. Its events are read one by one, not by `parse`."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if after:
        headers[LAST_EVENT_HEADER] = after
    return Call(method="GET", path=_job_path(job_id, "events"), headers=headers, parse=lambda _: None)


def get_logs(job_id: str, tail: int) -> Call[LogTail]:
    """The last lines of the log."""
    params = (("tail", str(tail)),)
    return Call(method="GET", path=_job_path(job_id, "logs"), params=params, parse=_reader(LogTail))


def get_result(job_id: str) -> Call[JobResult]:
    """The result of a job that succeeded."""
    return Call(method="GET", path=_job_path(job_id, "result"), parse=_reader(JobResult))


def inspect_folder(request: InspectRequest) -> Call[Inspection]:
    """What is in a folder of checkpoints. Repeatable, because nothing is changed."""
    return Call(
        method="POST",
        path="/v1/inspect",
        parse=_reader(Inspection),
        headers={"Content-Type": "application/json"},
        content=request.model_dump_json(exclude_unset=True).encode(),
        timeout_s=INSPECT_TIMEOUT_S + SPARE_S,
    )


def get_nodes() -> Call[NodeList]:
    """All nodes."""
    return Call(method="GET", path="/v1/nodes", parse=_reader(NodeList))


def change_node(node_id: str, verb: str, *, reason: str | None = None, now: bool = False) -> Call[NodeChange]:
    """`verb` is `cordon`, `drain` or `uncordon`. Repeatable, because the second time changes nothing."""
    params = [("reason", _sendable(reason))] if reason is not None else []
    params += [("now", "true")] if now else []
    path = f"/v1/nodes/{quote(_sendable(node_id), safe='')}/{verb}"
    return Call(method="POST", path=path, params=tuple(params), parse=_reader(NodeChange))


def get_methods() -> Call[MethodList]:
    """The methods."""
    return Call(method="GET", path="/v1/methods", parse=_reader(MethodList))


def get_tasks() -> Call[TaskList]:
    """The tasks."""
    return Call(method="GET", path="/v1/tasks", parse=_reader(TaskList))


def get_webhook_secret() -> Call[WebhookSecret]:
    """What signs the webhooks of the caller's jobs."""
    return Call(method="GET", path="/v1/webhook-secret", parse=_reader(WebhookSecret))


def get_version() -> Call[Version]:
    """The version of the service."""
    return Call(method="GET", path="/version", parse=_reader(Version))


def read_error(status: int, body: bytes) -> LadleError:
    """The exception for an answer that is not a success."""
    try:
        return error_of(Problem.read(body))
    except ValidationError:
        return UnexpectedAnswer(f"The answer is HTTP {status} and does not come from Ladle: {body[:200]!r}.")


def _job_path(job_id: str, *more: str) -> str:
    return "/".join(["/v1/jobs", quote(_sendable(job_id), safe=""), *more])


def _sendable(text: str) -> str:
    """What nothing is named like, where bytes that are not UTF-8 were typed."""
    return text.encode("utf-8", "backslashreplace").decode()


def _reader(model: type[M]) -> Callable[[bytes], M]:
    def read(body: bytes) -> M:
        try:
            return model.read(body)
        except ValidationError as error:
            message = f"The answer is not a {model.__name__}. Is there a Ladle service at this address?"
            raise UnexpectedAnswer(message) from error

    return read

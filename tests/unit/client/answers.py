"""Records and transports for the client's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2

from ladle import Client
from ladle_contracts import (
    PROBLEM_TITLES,
    CandidateResult,
    ErrorCode,
    Event,
    EventBody,
    JobRecord,
    JobResult,
    JobSpec,
    JobState,
    Problem,
    StateChanged,
    Warned,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
Handler = Callable[[httpx2.Request], httpx2.Response]

RESULT = JobResult(
    folder="/results/j1",
    method="twa",
    metric="accuracy",
    higher_is_better=True,
    candidates=(CandidateResult(method="twa", label="twa", select={"accuracy": 0.9}),),
    best_checkpoint="step-3.safetensors",
    gain=0.02,
    gain_low=0.01,
    gain_high=0.03,
    num_checkpoints=4,
    num_parameters=100,
    duration_s=1.5,
    files={"model.safetensors": 400},
)


def record(state: JobState = JobState.QUEUED, **fields: Any) -> JobRecord:
    """A record of job `j1`."""
    fields.setdefault("id", "j1")
    if state is JobState.SUCCEEDED:
        fields.setdefault("result", RESULT)
    return JobRecord(spec=JobSpec(ckpt_dir="/c", val_set="/v"), state=state, created_at=NOW, **fields)


def ok(model: Any, status: int = 200) -> httpx2.Response:
    """A success."""
    return httpx2.Response(status, content=model.model_dump_json(), headers={"content-type": "application/json"})


def problem(code: ErrorCode, detail: str = "no", **headers: str) -> httpx2.Response:
    """A refusal."""
    status, title = PROBLEM_TITLES[code]
    body = Problem(title=title, status=status, code=code, detail=detail).model_dump_json()
    return httpx2.Response(status, content=body, headers={"content-type": "application/problem+json", **headers})


def event(number: int, body: EventBody | None = None) -> Event:
    """The event with id `number-0`."""
    return Event(id=f"{number}-0", job_id="j1", attempt=1, time=NOW, body=body or Warned(message=f"event {number}"))


def last_event(number: int, state: JobState = JobState.SUCCEEDED) -> Event:
    """The event that ends the job."""
    return event(number, StateChanged(state=state))


def message(item: Event) -> str:
    """The event on the wire."""
    return f"event: {item.body.kind}\ndata: {item.model_dump_json()}\nid: {item.id}\n\n"


class Cut(httpx2.SyncByteStream):
    """A body that breaks off after its parts."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            yield part.encode()
        raise httpx2.ReadError("connection reset by peer")


def stream(*parts: str, cut: bool = False) -> httpx2.Response:
    """A stream of events, which ends or breaks off."""
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    if cut:
        return httpx2.Response(200, headers=headers, stream=Cut(*parts))
    return httpx2.Response(200, headers=headers, content="".join(parts))


def client(handler: Handler, **options: Any) -> Client:
    """A client of a service that is a function."""
    options.setdefault("token", "secret-token")
    return Client("http://ladle.test", transport=httpx2.MockTransport(handler), **options)


class Script:
    """Answers one after the other; an exception is raised. Remembers the requests."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

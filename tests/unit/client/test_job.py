"""The handle on a job: like a Future, and its events once each."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx2
import pytest

from ladle import (
    AsyncClient,
    Conflict,
    InvalidSpec,
    Job,
    JobCancelled,
    JobFailed,
    JobState,
    ServiceUnreachable,
    UnexpectedAnswer,
)
from ladle._errors import JobError
from ladle._follow import Waiter
from ladle_contracts import ErrorCode, Problem, Reason
from ladle_contracts.api import EventPage, LogTail
from tests.polling import DEADLINE_S
from tests.unit.client.answers import (
    RESULT,
    Script,
    client,
    event,
    last_event,
    message,
    ok,
    problem,
    record,
    stream,
)

RunAsync = Callable[[Coroutine[Any, Any, None]], None]

FAILED = record(
    JobState.FAILED,
    reason=Reason.CORRUPT_CHECKPOINT,
    message="`step-3.safetensors` must be a safetensors file, but is truncated",
    log_tail=("reading step-3.safetensors", "error: header too large"),
)


def job(*answers: httpx2.Response | Exception) -> tuple[Job, Script]:
    script = Script(*answers)
    return client(script).job("j1"), script


@pytest.mark.parametrize(
    ("state", "done", "running", "cancelled"),
    [
        (JobState.QUEUED, False, False, False),
        (JobState.SCHEDULED, False, False, False),
        (JobState.RUNNING, False, True, False),
        (JobState.FINALIZING, False, True, False),
        (JobState.CANCELLING, False, True, False),
        (JobState.SUCCEEDED, True, False, False),
        (JobState.FAILED, True, False, False),
        (JobState.CANCELLED, True, False, True),
    ],
)
def test_the_questions_of_a_future_are_answered_from_the_state(
    state: JobState, done: bool, running: bool, cancelled: bool
) -> None:
    handle, _ = job(*[ok(record(state))] * 3)
    assert (handle.done(), handle.running(), handle.cancelled()) == (done, running, cancelled)


def test_result_waits_until_the_job_has_ended() -> None:
    handle, script = job(ok(record()), ok(record(JobState.RUNNING)), ok(record(JobState.SUCCEEDED)))
    assert handle.result(timeout=DEADLINE_S) == RESULT
    assert len(script.requests) == 3


def test_a_job_that_has_ended_is_not_asked_about_again() -> None:
    handle, script = job(ok(record(JobState.SUCCEEDED)))
    assert handle.result() == handle.result()
    assert handle.exception() is None
    assert handle.done()
    assert handle.status().state is JobState.SUCCEEDED
    assert len(script.requests) == 1


def test_a_failed_job_raises_its_reason_message_and_the_logs_tail() -> None:
    handle, _ = job(ok(FAILED))
    with pytest.raises(JobFailed) as caught:
        handle.result()
    assert caught.value.reason is Reason.CORRUPT_CHECKPOINT
    assert caught.value.log_tail == FAILED.log_tail
    text = str(caught.value)
    for part in ("j1", "corrupt-checkpoint", "is truncated", "error: header too large"):
        assert part in text
    assert isinstance(handle.exception(), JobFailed)


def test_errors_can_leave_a_process_pool() -> None:
    title = "The request is not valid."
    problem_sent = Problem(title=title, status=409, code=ErrorCode.OUTPUT_EXISTS, detail="d")
    for error in (
        JobFailed(FAILED),
        JobCancelled(record(JobState.CANCELLED)),
        Conflict(problem_sent),
        InvalidSpec("m", code="unknown-method", errors=({"field": "f", "message": "m"},)),
    ):
        copied = pickle.loads(pickle.dumps(error))
        assert type(copied) is type(error)
        assert str(copied) == str(error)
        assert getattr(copied, "code", None) == getattr(error, "code", None)
        assert getattr(copied, "log_tail", None) == getattr(error, "log_tail", None)


def test_a_cancelled_job_raises_that_it_was() -> None:
    handle, _ = job(ok(record(JobState.CANCELLED, reason=Reason.CANCELLED)))
    with pytest.raises(JobCancelled, match="j1"):
        handle.result()
    assert isinstance(handle.exception(), JobError)


def test_waiting_longer_than_the_timeout_raises_pythons_own_error() -> None:
    def never(request: httpx2.Request) -> httpx2.Response:
        return ok(record(JobState.RUNNING))

    with pytest.raises(TimeoutError, match="j1 has not ended within"):
        client(never).job("j1").result(timeout=0.05)


def test_a_service_that_is_away_when_the_time_is_up_is_a_timeout_too() -> None:
    def away(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with pytest.raises(TimeoutError) as caught:
        client(away).job("j1").result(timeout=0.05)
    assert isinstance(caught.value.__cause__, ServiceUnreachable)


def test_a_wait_outlasts_a_restart_of_the_service() -> None:
    away = [httpx2.ConnectError("refused")] * 3
    handle, _ = job(ok(record(JobState.RUNNING)), *away, ok(record(JobState.SUCCEEDED)))
    assert handle.wait(timeout=DEADLINE_S).state is JobState.SUCCEEDED


def test_a_wait_looks_often_at_first_and_never_past_its_deadline() -> None:
    now = 0.0
    waiter = Waiter("j1", 1.0, clock=lambda: now)
    assert waiter.next_pause() == 0.05
    pauses = [waiter.next_pause() for _ in range(20)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 1.0
    now = 0.9
    assert waiter.next_pause() == pytest.approx(0.1)
    now = 1.0
    with pytest.raises(TimeoutError):
        waiter.next_pause()


def test_cancel_says_whether_it_came_in_time() -> None:
    assert job(ok(record(JobState.CANCELLING), 202))[0].cancel()
    assert job(ok(record(JobState.CANCELLED), 202))[0].cancel()
    assert not job(ok(record(JobState.FINALIZING), 202))[0].cancel()
    assert not job(problem(ErrorCode.ALREADY_FINISHED))[0].cancel()


def test_logs_are_the_last_lines() -> None:
    handle, script = job(ok(LogTail(lines=("a", "b"))))
    assert handle.logs(tail=2) == ("a", "b")
    assert script.requests[0].url.params["tail"] == "2"


def test_events_without_following_are_read_to_the_newest() -> None:
    handle, script = job(
        ok(EventPage(events=(event(1), event(2)), next_after="2-0")), ok(EventPage(events=(event(3),)))
    )
    assert [item.id for item in handle.events(follow=False)] == ["1-0", "2-0", "3-0"]
    assert script.requests[1].url.params["after"] == "2-0"


def test_a_stream_that_is_cut_goes_on_where_it_was_and_shows_each_event_once() -> None:
    half = message(event(3))[:-20]
    handle, script = job(
        stream(": ping\n\n", message(event(1)), message(event(2)), half, cut=True),
        httpx2.ConnectError("refused"),
        problem(ErrorCode.UNAVAILABLE),
        stream(message(event(2)), message(event(3))),  # one that was seen, then an end without the job's end
        stream(message(event(10)), message(last_event(11)), message(event(12))),
    )
    assert [item.id for item in handle.events()] == ["1-0", "2-0", "3-0", "10-0", "11-0"]
    assert [request.headers.get("last-event-id") for request in script.requests] == [None, "2-0", "2-0", "2-0", "3-0"]
    assert script.requests[0].headers["accept"] == "text/event-stream"


def test_following_a_job_whose_last_event_was_seen_ends_at_once() -> None:
    handle, _ = job(httpx2.Response(204))
    assert list(handle.events(after="11-0")) == []


def test_following_gives_up_when_nobody_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladle._follow.OUTAGE_S", 0.02)

    def away(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with pytest.raises(ServiceUnreachable):
        list(client(away).job("j1").events())


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(200, content=b"<html/>", headers={"content-type": "text/html"}),
        stream("data: {}\n\n"),
        stream(message(event(1)).replace("1-0", "x")),
    ],
)
def test_a_stream_that_is_none_of_ladles_is_an_error(answer: httpx2.Response) -> None:
    handle, _ = job(answer, stream(message(event(2))))
    with pytest.raises(UnexpectedAnswer):
        list(handle.events())


class AsyncCut(httpx2.AsyncByteStream):
    """A body that breaks off after its parts."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part.encode()
        raise httpx2.ReadError("connection reset by peer")


def test_the_async_client_does_the_same(run_async: RunAsync) -> None:
    """Its transport is the one thing that it does not share."""
    cut = httpx2.Response(
        200, headers={"content-type": "text/event-stream"}, stream=AsyncCut(message(event(1)), message(event(2)))
    )
    script = Script(
        httpx2.ConnectError("refused"),
        ok(record(), 202),
        cut,
        stream(message(event(2)), message(last_event(3))),
        problem(ErrorCode.UNAVAILABLE),
        ok(record(JobState.SUCCEEDED)),
        ok(LogTail(lines=("a",))),
    )

    async def use() -> None:
        async with AsyncClient("http://ladle.test", transport=httpx2.MockTransport(script)) as asking:
            handle = await asking.submit("/c", "/v", method="twa")
            assert [item.id async for item in handle.events()] == ["1-0", "2-0", "3-0"]
            assert await handle.result(timeout=DEADLINE_S) == RESULT
            assert await handle.done()
            assert await handle.logs() == ("a",)

    run_async(use())
    assert script.requests[3].headers["last-event-id"] == "2-0"


def test_the_async_job_raises_the_same_errors(run_async: RunAsync) -> None:
    async def use() -> None:
        def handler(request: httpx2.Request) -> httpx2.Response:
            return ok(FAILED) if request.method == "GET" else problem(ErrorCode.ALREADY_FINISHED)

        async with AsyncClient("http://ladle.test", transport=httpx2.MockTransport(handler)) as asking:
            handle = asking.job("j1")
            assert not await handle.cancel()
            with pytest.raises(JobFailed, match="header too large"):
                await handle.result()
            assert isinstance(await handle.exception(), JobFailed)

    run_async(use())

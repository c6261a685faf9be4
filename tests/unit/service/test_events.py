"""Events as a list and as a stream; the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx2
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from ladle_contracts import JobState, Warned
from ladle_service.stream import sse_bytes
from tests.polling import DEADLINE_S
from tests.unit.service.fakes import FakeStore, Service
from tests.unit.service.test_jobs import problem_of

RunAsync = Callable[[Coroutine[Any, Any, None]], None]
STREAM = {"Accept": "text/event-stream"}


def ids_of(text: str) -> list[str]:
    """The ids of the events in a stream."""
    return [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: ")]


async def come(predicate: Callable[[], bool]) -> None:
    """Lets the event loop run until something is true; a TimeoutError after a while."""
    async with asyncio.timeout(DEADLINE_S):
        while not predicate():  # noqa: ASYNC110  what is waited for is many things, none with an event
            await asyncio.sleep(0.001)


async def submit(service: Service, client: httpx2.AsyncClient) -> None:
    assert (await client.post("/v1/jobs", json=service.spec())).status_code == 202
    for number in range(3):
        service.store.happen("job1", Warned(message=f"line {number}\nnext"))


def test_events_are_a_list_by_default_page_by_page(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            await submit(service, client)
            page = (await client.get("/v1/jobs/job1/events", params={"limit": 3})).json()
            assert [event["id"] for event in page["events"]] == ["1000-0", "1001-0", "1002-0"]
            assert page["next_after"] == "1002-0"
            rest = (await client.get("/v1/jobs/job1/events", params={"after": page["next_after"]})).json()
            assert [event["body"]["message"] for event in rest["events"]] == ["line 2\nnext"]
            assert rest["next_after"] is None

    run_async(use())


def test_a_stream_has_ids_kinds_and_keep_alives_and_ends_with_the_job(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            await submit(service, client)
            reading = asyncio.create_task(client.get("/v1/jobs/job1/events", headers=STREAM))
            await come(lambda: service.store.ticks > 2)
            service.store.move("job1", JobState.SUCCEEDED)
            answer = await reading
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-accel-buffering"] == "no"
            assert answer.text.startswith("retry: 1000\n\n")
            assert ids_of(answer.text) == ["1000-0", "1001-0", "1002-0", "1003-0", "1004-0"]
            assert "event: warning\ndata: {" in answer.text
            assert ": ping\n\n" in answer.text
            assert service.store.followers == 0

    run_async(use())


def test_a_stream_goes_on_after_the_last_event_that_was_seen(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            await submit(service, client)
            service.store.move("job1", JobState.FAILED)
            for headers, params in (({"Last-Event-ID": "1002-0"}, {}), ({}, {"after": "1002-0"})):
                answer = await client.get("/v1/jobs/job1/events", headers=STREAM | headers, params=params)
                assert ids_of(answer.text) == ["1003-0", "1004-0"]

    run_async(use())


def test_a_stream_that_has_nothing_more_to_say_tells_browsers_to_stay_away(
    service: Service, run_async: RunAsync
) -> None:
    async def use() -> None:
        async with service.client() as client:
            await submit(service, client)
            service.store.move("job1", JobState.FAILED)
            answer = await client.get("/v1/jobs/job1/events", headers=STREAM | {"Last-Event-ID": "1004-0"})
            assert answer.status_code == 204

    run_async(use())


@pytest.mark.parametrize("event_id", ["x", "1", "1-", "-1-0", "1-0-0", "99999999999999999999-0", "1-0 ", "(1-0", "$"])
def test_an_id_that_is_no_events_is_refused(service: Service, run_async: RunAsync, event_id: str) -> None:
    async def use() -> None:
        async with service.client() as client:
            await submit(service, client)
            by_query = await client.get("/v1/jobs/job1/events", params={"after": event_id})
            assert problem_of(by_query)[:2] == (422, "invalid-request")
            if event_id == event_id.strip():  # HTTP strips headers
                by_header = await client.get("/v1/jobs/job1/events", headers=STREAM | {"Last-Event-ID": event_id})
                assert problem_of(by_header)[:2] == (422, "invalid-request")

    run_async(use())


def test_streams_end_when_the_service_stops(service: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with service.client() as client:
            await submit(service, client)
            reading = asyncio.create_task(client.get("/v1/jobs/job1/events", headers=STREAM))
            await come(lambda: service.store.followers > 0)
            await service.store.end_streams()
            answer = await asyncio.wait_for(reading, 5)
            assert ids_of(answer.text)[0] == "1000-0"
            assert service.store.followers == 0

    run_async(use())


def test_a_client_that_goes_away_leaves_no_follower(run_async: RunAsync) -> None:
    async def use() -> None:
        store = FakeStore()
        store.happen("job1", Warned(message="w"))
        stream = sse_bytes(store.follow("job1", None))
        parts: list[bytes] = []

        async def read() -> None:
            async for part in stream:
                parts.append(part)

        reading = asyncio.create_task(read())
        await come(lambda: len(parts) == 2)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert store.followers == 0

    run_async(use())


def test_a_stream_is_cut_cleanly_when_the_store_goes_away(
    service: Service, run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    async def use() -> None:
        async with service.client() as client:
            await submit(service, client)
            reading = asyncio.create_task(client.get("/v1/jobs/job1/events", headers=STREAM))
            await come(lambda: service.store.followers > 0)
            service.store.failure = RedisConnectionError("gone")
            answer = await asyncio.wait_for(reading, 5)
            assert ids_of(answer.text) == ["1000-0", "1001-0", "1002-0", "1003-0"]
            assert service.store.followers == 0

    run_async(use())
    assert "a stream was cut" in caplog.text


def test_the_log_is_its_last_lines(service: Service, run_async: RunAsync) -> None:
    service.store.lines["job1"] = [f"line {number}" for number in range(300)]

    async def use() -> None:
        async with service.client() as client:
            await submit(service, client)
            assert (await client.get("/v1/jobs/job1/logs", params={"tail": 2})).json() == {
                "lines": ["line 298", "line 299"]
            }
            assert len((await client.get("/v1/jobs/job1/logs")).json()["lines"]) == 100
            for tail in ("0", "2001", "-1", "x"):
                answer = await client.get("/v1/jobs/job1/logs", params={"tail": tail})
                assert problem_of(answer)[:2] == (422, "invalid-request")

    run_async(use())

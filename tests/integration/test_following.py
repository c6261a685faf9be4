"""Following jobs over a real Redis: nothing lost, nothing twice, over one connection."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ladle_contracts import EventBody, JobState, StateChanged, Warned, keys
from ladle_service import feed, following
from ladle_service.following import Feeds
from ladle_service.store import JobStore
from ladle_service.stream import StreamCut
from tests.polling import DEADLINE_S
from tests.servers import RedisServer

ID = re.compile(rb"^id: (.*)$", re.MULTILINE)
ENDS = StateChanged(state=JobState.SUCCEEDED)


@dataclass
class Jobs:
    """Writes events as the Lua scripts do, and follows them."""

    redis: Any
    store: JobStore

    async def happen(self, job: str, *bodies: EventBody | str) -> list[str]:
        """The ids of the events."""
        made = []
        for body in bodies:
            text = body if isinstance(body, str) else body.model_dump_json()
            fields = {"attempt": 1, "time": 1, "body": text}
            await self.redis.hset(keys.job(job), "state", "succeeded" if body is ENDS else "running")
            made.append(await self.redis.xadd(keys.events(job), fields))
        return made

    async def ids(self, job: str, after: str | None = None, *, most: int = 1 << 30) -> list[str]:
        """The ids that one watcher gets, until the end or so many."""
        seen: list[str] = []
        async with aclosing(self.store.follow(job, after)) as stream:
            async for data in stream:
                seen += [found.decode() for found in ID.findall(data or b"")]
                if len(seen) >= most:
                    return seen
        return seen

    async def readers(self) -> int:
        """How many connections wait for events."""
        return sum("b" in client["flags"] for client in await self.redis.client_list())


@asynccontextmanager
async def jobs_of(server: RedisServer) -> AsyncIterator[Jobs]:
    redis = Redis.from_url(server.url, decode_responses=True)
    async with redis, asyncio.timeout(DEADLINE_S):
        store = JobStore(redis, redis)
        yield Jobs(redis, store)
        await store.end_streams()


def run(server: RedisServer, use: Callable[[Jobs], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with jobs_of(server) as jobs:
            await use(jobs)

    asyncio.run(whole())


async def come(predicate: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    while not await predicate():  # noqa: ASYNC110  what is waited for is in Redis
        await asyncio.sleep(0.01)


def numbered(*numbers: int) -> list[EventBody]:
    return [Warned(message=f"event {number}") for number in numbers]


@pytest.mark.slow
@pytest.mark.parametrize("window_bytes", [400, 3000, feed.WINDOW_BYTES])
def test_watchers_of_any_pace_see_every_event_once(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, window_bytes: int
) -> None:
    """They come at any time, from any place, read slowly, and come back after they were cut."""
    monkeypatch.setattr(feed, "WINDOW_BYTES", window_bytes)
    monkeypatch.setattr(feed, "CHUNK_BYTES", 700)
    monkeypatch.setattr(following, "WINDOW_EVENTS", 10)
    monkeypatch.setattr(following, "PAGE", 7)
    draw = random.Random(window_bytes)

    async def watch(jobs: Jobs, made: list[str]) -> tuple[str | None, list[str]]:
        for _ in range(draw.randrange(40)):
            await asyncio.sleep(0)
        start = draw.choice([None, *made])
        last, seen = start, list[str]()
        while not (seen and seen[-1] == made[-1] and len(made) == 301):
            async with aclosing(jobs.store.follow("j", last)) as stream:
                async for data in stream:
                    seen += [found.decode() for found in ID.findall(data or b"")]
                    last = seen[-1] if seen else last
                    for _ in range(draw.choice([0, 1, 30])):
                        await asyncio.sleep(0)
                    if draw.random() < 0.1:
                        break
        return start, seen

    async def use(jobs: Jobs) -> None:
        made = await jobs.happen("j", *numbered(*range(50)))
        watching = [asyncio.create_task(watch(jobs, made)) for _ in range(30)]
        for number in range(50, 300, 5):
            made += await jobs.happen("j", *numbered(*range(number, number + 5)))
        made += await jobs.happen("j", ENDS)
        for start, seen in await asyncio.gather(*watching):
            assert seen == made[made.index(start) + 1 if start else 0 :]

    run(server, use)


def test_any_number_of_watchers_and_jobs_share_one_connection(server: RedisServer) -> None:
    async def use(jobs: Jobs) -> None:
        names = [f"j{number}" for number in range(20)]
        for name in names:
            await jobs.happen(name, *numbered(0))
        watching = [asyncio.create_task(jobs.ids(name)) for name in names for _ in range(10)]
        feeds: Feeds = jobs.store._feeds

        async def all_joined() -> bool:
            return sum(one.watchers for one in feeds._feeds.values()) == 200

        await come(all_joined)
        await come(lambda: _is(jobs.readers(), 1))
        for name in names:
            await jobs.happen(name, *numbered(1), ENDS)
        assert [len(seen) for seen in await asyncio.gather(*watching)] == [3] * 200
        assert feeds._feeds == {}
        await come(lambda: _is(jobs.readers(), 0))

    run(server, use)


async def _is(count: Coroutine[Any, Any, int], expected: int) -> bool:
    return await count == expected


def test_an_event_is_encoded_once_for_all_watchers(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    plain = following.encode
    monkeypatch.setattr(following, "encode", lambda event: (encoded.append(event.id), plain(event))[1])

    async def use(jobs: Jobs) -> None:
        made = await jobs.happen("j", *numbered(0, 1))
        watching = [asyncio.create_task(jobs.ids("j")) for _ in range(50)]
        made += await jobs.happen("j", *numbered(2, 3), ENDS)
        assert await asyncio.gather(*watching) == [made] * 50
        assert sorted(encoded) == made

    run(server, use)


def test_who_follows_from_a_time_to_come_takes_nothing_from_others(server: RedisServer) -> None:
    async def use(jobs: Jobs) -> None:
        made = await jobs.happen("j", *numbered(0))
        early = asyncio.create_task(jobs.ids("j", "9000000000000-0"))
        await come(lambda: _is(jobs.readers(), 1))
        other = asyncio.create_task(jobs.ids("j"))
        made += await jobs.happen("j", *numbered(1), ENDS)
        assert await other == made
        assert await early == []
        assert await jobs.ids("j", made[-1]) == []

    run(server, use)


@pytest.mark.parametrize("has_events", [True, False])
def test_a_stream_ends_when_its_job_is_deleted(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, has_events: bool
) -> None:
    monkeypatch.setattr(following, "CHECK_S", 0.05)

    async def use(jobs: Jobs) -> None:
        made = await jobs.happen("j", *numbered(0)) if has_events else []
        await jobs.redis.hset(keys.job("j"), "state", "running")
        watching = asyncio.create_task(jobs.ids("j"))
        await come(lambda: _is(jobs.readers(), 1))
        await jobs.redis.delete(keys.job("j"), keys.events("j"))
        assert await watching == made

    run(server, use)


def test_an_event_that_is_none_cuts_the_streams_of_its_job_only(server: RedisServer) -> None:
    async def use(jobs: Jobs) -> None:
        bad, good = await jobs.happen("bad", *numbered(0)), await jobs.happen("good", *numbered(0))
        of_bad, of_good = (asyncio.create_task(jobs.ids(name)) for name in ("bad", "good"))
        await come(lambda: _is(jobs.readers(), 1))
        await jobs.happen("bad", "{")
        with pytest.raises(StreamCut):
            await of_bad
        for after in (None, *bad):
            with pytest.raises(StreamCut):
                await jobs.ids("bad", after)
        good += await jobs.happen("good", ENDS)
        assert await of_good == good

    run(server, use)


def test_when_redis_goes_away_the_streams_are_cut_and_go_on_later(server: RedisServer) -> None:
    async def use(jobs: Jobs) -> None:
        made = await jobs.happen("j", *numbered(0, 1))
        seen = await jobs.ids("j", most=2)
        watching = [asyncio.create_task(jobs.ids("j", seen[-1])) for _ in range(3)]
        await come(lambda: _is(jobs.readers(), 1))
        await asyncio.to_thread(server.stop)
        ends = await asyncio.gather(*watching, return_exceptions=True)
        assert all(isinstance(end, StreamCut | RedisError) for end in ends)
        await asyncio.to_thread(server.start)
        again = [asyncio.create_task(jobs.ids("j", seen[-1])) for _ in range(3)]
        made += await jobs.happen("j", *numbered(2), ENDS)
        assert await asyncio.gather(*again) == [made[2:]] * 3

    run(server, use)

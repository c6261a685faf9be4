"""What one owner may take, and that others do not notice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ladle_contracts import ErrorCode
from ladle_contracts.tokens import hash_token
from ladle_service.limits import BURST_S, LONGEST_WAIT_S, OwnerLimits
from ladle_service.problems import ApiError
from tests.unit.service.fakes import Service, make_service
from tests.unit.service.test_events import STREAM, come
from tests.unit.service.test_jobs import problem_of

RunAsync = Callable[[Coroutine[Any, Any, None]], None]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(limits: OwnerLimits, owner: str) -> str | None:
    """The `Retry-After` of a request that is refused."""
    try:
        limits.count_request(owner)
    except ApiError as error:
        return error.headers["Retry-After"] if error.code is ErrorCode.TOO_MANY_REQUESTS else error.code
    return None


@pytest.mark.parametrize(("per_s", "burst"), [(10.0, 200), (0.5, 10), (0.1, 2), (0.01, 1)])
def test_an_owner_has_a_burst_and_then_so_many_per_second(per_s: float, burst: int) -> None:
    clock = Clock()
    limits = OwnerLimits(requests_per_s=per_s, streams=1, clock=clock)
    assert [refused(limits, "ann") for _ in range(burst)] == [None] * burst
    assert refused(limits, "ann")
    assert refused(limits, "bob") is None
    clock.now += 1 / per_s
    assert refused(limits, "ann") is None
    assert refused(limits, "ann")
    clock.now += 100 * BURST_S / per_s
    assert [refused(limits, "ann") for _ in range(burst)] == [None] * burst
    assert refused(limits, "ann")


def test_many_that_are_refused_at_once_are_told_to_come_back_one_after_the_other() -> None:
    clock = Clock()
    limits = OwnerLimits(requests_per_s=10, streams=1, clock=clock)
    answers = [refused(limits, "ann") for _ in range(300)]
    waits = [int(answer) for answer in answers if answer is not None]
    assert len(waits) == 100
    assert waits == sorted(waits)
    assert {wait: waits.count(wait) for wait in set(waits)} == dict.fromkeys(range(1, 11), 10)
    began = clock.now
    for wait in waits:
        clock.now = began + wait
        assert refused(limits, "ann") is None
    assert max(int(refused(limits, "ann") or 0) for _ in range(10_000)) == LONGEST_WAIT_S


def test_streams_are_counted_while_they_are_open_and_for_each_owner() -> None:
    limits = OwnerLimits(requests_per_s=1, streams=2)
    limits.open_stream("ann")
    limits.open_stream("ann")
    limits.open_stream("bob")
    with pytest.raises(ApiError, match="At most 2 streams"):
        limits.open_stream("ann")
    limits.close_stream("ann")
    limits.open_stream("ann")


@pytest.fixture
def owned(tmp_path: Path) -> Service:
    """A service with tokens of ann and bob, and small limits."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann:{hash_token('ann-token')}\nbob:{hash_token('bob-token')}\n")
    return make_service(tmp_path / "s", tokens_file=tokens, max_streams_per_owner=2, max_requests_per_s=1)


def test_a_stream_gives_its_place_back_whoever_ends_it(owned: Service, run_async: RunAsync) -> None:
    async def use() -> None:
        async with owned.client("ann-token") as ann, owned.client("bob-token") as bob:
            for client in (ann, bob):
                assert (await client.post("/v1/jobs", json=owned.spec())).status_code == 202
            reading = [asyncio.create_task(ann.get("/v1/jobs/job1/events", headers=STREAM)) for _ in range(2)]
            await come(lambda: owned.store.followers == 2)
            refusal = await ann.get("/v1/jobs/job1/events", headers=STREAM)
            assert problem_of(refusal)[:2] == (429, "too-many-streams")
            assert refusal.headers["retry-after"]
            assert (await ann.get("/v1/jobs/job1/events")).status_code == 200, "a page is no stream"
            theirs = asyncio.create_task(bob.get("/v1/jobs/job2/events", headers=STREAM))
            await come(lambda: owned.store.followers == 3)
            reading[0].cancel()
            await come(lambda: owned.store.followers == 2)
            again = asyncio.create_task(ann.get("/v1/jobs/job1/events", headers=STREAM))
            await come(lambda: owned.store.followers == 3)
            missing = await bob.get("/v1/jobs/nothing/events", headers=STREAM)
            assert problem_of(missing)[:2] == (404, "not-found")
            await owned.store.end_streams()
            await asyncio.gather(reading[1], theirs, again)
            for _ in range(2):
                assert (await bob.get("/v1/jobs/job2/events", headers=STREAM)).status_code == 200

    run_async(use())


def test_too_many_requests_are_refused_but_not_those_of_others_and_of_monitoring(
    owned: Service, run_async: RunAsync
) -> None:
    async def use() -> None:
        async with owned.client("ann-token") as ann, owned.client("bob-token") as bob, owned.client() as nobody:
            answers = [await ann.get("/v1/nodes") for _ in range(40)]
            refusals = [answer for answer in answers if answer.status_code != 200]
            assert refusals
            assert {problem_of(answer)[:2] for answer in refusals} == {(429, "too-many-requests")}
            assert all(int(answer.headers["retry-after"]) > 0 for answer in refusals)
            assert (await bob.get("/v1/nodes")).status_code == 200
            for _ in range(40):
                assert (await nobody.get("/healthz")).status_code == 200
                assert (await nobody.get("/v1/nodes")).status_code == 401

    run_async(use())

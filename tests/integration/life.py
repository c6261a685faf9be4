"""A small cluster for tests of a job's life: real Redis, a real worker process, and the scheduler in this process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis

from ladle_contracts import Event, JobRecord, JobSpec, JobState, StateChanged
from ladle_contracts.job_record import TERMINAL_STATES
from ladle_service.ending import end
from ladle_service.scheduler import Scheduler
from ladle_service.store import JobStore
from ladle_service.wake import Waker
from tests.polling import DEADLINE_S, until
from tests.servers import RedisServer

T = TypeVar("T")


class Cluster:
    """The service's store and scheduler on a loop of their own, called from ordinary test code."""

    def __init__(self, server: RedisServer, *, settle_s: float = 3.0, waker: Any = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._redis = Redis.from_url(server.url, decode_responses=True, socket_timeout=60)
        self.store = JobStore(self._redis, self._redis)
        self.waker = waker or Waker(server.url)
        self.scheduler = Scheduler(self._redis, self.waker, settle_s=settle_s, backoff_ms=100)
        self._task: asyncio.Task[None] | None = None

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=DEADLINE_S)

    def start_scheduler(self) -> None:
        async def start() -> asyncio.Task[None]:
            return asyncio.create_task(self.scheduler.run())

        self._task = self.call(start())

    def stop_scheduler(self) -> None:
        if self._task is not None:
            self.call(end(self._task))
            self._task = None

    def close(self) -> None:
        self.stop_scheduler()

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._redis.aclose()

        with suppress(TimeoutError):
            self.call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(self, spec: JobSpec) -> str:
        record, _ = self.call(self.store.submit(spec, "tester", None, "digest"))
        return record.id

    def record(self, job_id: str) -> JobRecord:
        record = self.call(self.store.get(job_id, None))
        assert record is not None
        return record

    def events(self, job_id: str) -> tuple[Event, ...]:
        return self.call(self.store.events(job_id, None, 10_000))

    def states(self, job_id: str) -> list[str]:
        return [str(event.body.state) for event in self.events(job_id) if isinstance(event.body, StateChanged)]

    def wait_for(self, job_id: str, condition: Callable[[JobRecord], Any], timeout_s: float = DEADLINE_S) -> JobRecord:
        def look() -> JobRecord | None:
            record = self.record(job_id)
            if record.state in TERMINAL_STATES or condition(record):
                return record
            return None

        return until(look, timeout_s=timeout_s, what=f"job {job_id}: {self.record(job_id)}")

    def finish(self, job_id: str, timeout_s: float = DEADLINE_S) -> JobRecord:
        return self.wait_for(job_id, lambda record: False, timeout_s)

    def wait_running(self, job_id: str) -> JobRecord:
        return self.wait_for(job_id, lambda record: record.state == JobState.RUNNING)


@contextmanager
def cluster(server: RedisServer, **options: Any) -> Iterator[Cluster]:
    made = Cluster(server, **options)
    made.start_scheduler()
    try:
        yield made
    finally:
        made.close()


class Gate:
    """Points at which a rank of `tests.integration.gated_rank` stops until the test opens them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def reached(self, name: str) -> bool:
        return (self.folder / f"{name}.reached").exists()

    def hold(self, name: str) -> None:
        (self.folder / f"{name}.hold").touch()

    def wait_for(self, name: str) -> int:
        """Until a process has come to the point. Returns its pid."""
        reached = self.folder / f"{name}.reached"
        return int(until(lambda: reached.read_text() if reached.exists() else None, what=f"{name} to be reached"))

    def let_pass(self, name: str) -> None:
        """All that come to the point from now on."""
        (self.folder / f"{name}.hold").unlink()

    def open(self, name: str) -> None:
        (self.folder / f"{name}.open").touch()


def alpha_of(results: Path, name: str, method: str) -> Any:
    """The coefficients of one candidate in a result folder."""
    return json.loads((results / name / "coefficients.json").read_text())["candidates"][method]["alpha"]

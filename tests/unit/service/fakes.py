"""A store in memory, with the same surface as `JobStore`, and a service around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI

from ladle_contracts import (
    TERMINAL_STATES,
    Catalog,
    Event,
    EventBody,
    JobPage,
    JobRecord,
    JobSpec,
    JobState,
    MethodInfo,
    NodeRecord,
    OptionInfo,
    StateChanged,
    TaskInfo,
)
from ladle_contracts._model import Contract
from ladle_service.app import create_app
from ladle_service.cursors import Cursor
from ladle_service.settings import Settings
from ladle_service.store import IdempotencyConflict
from ladle_service.stream import encode

START = datetime(2026, 1, 2, tzinfo=UTC)
EMPTY = Catalog(methods=(), tasks=())
OPTION = OptionInfo(name="epochs", type="int", default=1, help="Passes over the fit split.")
CATALOG = Catalog(
    methods=(
        MethodInfo(name="twa", summary="s", reference="r", reference_url="https://example.org", options=(OPTION,)),
        MethodInfo(name="uniform", summary="s", reference="r", reference_url="https://example.org"),
    ),
    tasks=(TaskInfo(name="image-classification", summary="s", metrics=("accuracy",), options=(OPTION,)),),
)


def node(name: str, ranks: int = 1, job_id: str | None = None) -> NodeRecord:
    return NodeRecord(
        id=name,
        host=name,
        ranks=ranks,
        version="1",
        torch_version="2",
        started_at=START,
        heartbeat_at=START,
        alive=True,
        job_id=job_id,
    )


@dataclass
class FakeStore:
    """What Redis would hold."""

    jobs: dict[str, JobRecord] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    keys: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    streams: dict[str, list[Event]] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    known: Catalog = EMPTY
    machines: list[NodeRecord] = field(default_factory=list)
    failure: Exception | None = None
    followers: int = 0
    ticks: int = 0
    ended: bool = False
    uses: list[tuple[str, int]] = field(default_factory=list)
    sessions: dict[str, str] = field(default_factory=dict)
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    async def note_use(self, token_id: str, seconds: int) -> None:
        self._fail()
        self.uses.append((token_id, seconds))

    async def last_uses(self, token_ids: Sequence[str]) -> list[datetime | None]:
        used = dict(self.uses)
        return [datetime.fromtimestamp(used[each], tz=UTC) if each in used else None for each in token_ids]

    async def begin_session(self, key: str, token_id: str) -> None:
        self._fail()
        self.sessions[key] = token_id

    async def session(self, key: str) -> str | None:
        self._fail()
        return self.sessions.get(key)

    async def end_session(self, key: str) -> None:
        self.sessions.pop(key, None)

    async def offer_login(self, key: str, token_id: str) -> None:
        self.sessions[f"login:{key}"] = token_id

    async def take_login(self, key: str) -> str | None:
        return self.sessions.pop(f"login:{key}", None)

    async def replay(self, owner: str, key: str, digest: str) -> JobRecord | None:
        self._fail()
        if (owner, key) not in self.keys:
            return None
        job_id, first = self.keys[owner, key]
        if first != digest:
            raise IdempotencyConflict
        return self.jobs[job_id]

    async def submit(self, spec: JobSpec, owner: str, key: str | None, digest: str) -> tuple[JobRecord, bool]:
        if key is not None and (known := await self.replay(owner, key, digest)) is not None:
            return known, False
        number = len(self.jobs) + 1
        record = JobRecord(
            id=f"job{number}", spec=spec, state=JobState.QUEUED, created_at=START + timedelta(seconds=number)
        )
        self.jobs[record.id], self.owners[record.id] = record, owner
        if key is not None:
            self.keys[owner, key] = (record.id, digest)
        self.happen(record.id, StateChanged(state=JobState.QUEUED))
        return record, True

    async def get(self, job_id: str, owner: str | None) -> JobRecord | None:
        self._fail()
        return self.jobs.get(job_id) if owner in (None, self.owners.get(job_id)) else None

    async def list(
        self,
        owner: str | None,
        *,
        state: JobState | None,
        labels: Mapping[str, str],
        cursor: str | None,
        limit: int,
    ) -> JobPage:
        self._fail()
        shown = [
            job
            for job in sorted(self.jobs.values(), key=lambda job: job.created_at, reverse=True)
            if owner in (None, self.owners[job.id])
            and state in (None, job.state)
            and labels.items() <= job.spec.labels.items()
        ]
        start = int(Cursor.parse(cursor).created_ms) if cursor is not None else 0
        more = len(shown) > start + limit
        next_cursor = str(Cursor(str(start + limit), "fake")) if more else None
        return JobPage(jobs=tuple(shown[start : start + limit]), next_cursor=next_cursor)

    async def newest(self, owner: str | None, most: int) -> tuple[list[str], int]:
        self._fail()
        ids = [job_id for job_id in reversed(self.jobs) if owner in (None, self.owners[job_id])]
        return ids[:most], len(ids)

    async def fields_of(self, job_ids: list[str], names: tuple[str, ...]) -> list[dict[str, str | None]]:
        return [{name: self._field(self.jobs[job_id], name) for name in names} for job_id in job_ids]

    def _field(self, job: JobRecord, name: str) -> str | None:
        value = {"owner": self.owners[job.id], "output": job.spec.output.name or job.id}.get(name) or getattr(job, name)
        if isinstance(value, datetime):
            return str(round(value.timestamp() * 1000))
        return value.model_dump_json() if isinstance(value, Contract) else value and str(value)

    async def records(self, job_ids: list[str]) -> list[JobRecord]:
        return [self.jobs[job_id] for job_id in job_ids]

    async def cancel(self, job_id: str) -> JobRecord:
        self.move(job_id, JobState.CANCELLING if self.jobs[job_id].state is JobState.RUNNING else JobState.CANCELLED)
        return self.jobs[job_id]

    async def delete(self, job_id: str) -> None:
        del self.jobs[job_id]

    async def events(self, job_id: str, after: str | None, limit: int) -> list[Event]:
        return [event for event in self.streams.get(job_id, []) if _order(event.id) > _order(after)][:limit]

    async def follow(self, job_id: str, after: str | None) -> AsyncGenerator[bytes | None]:
        self.followers += 1
        try:
            while True:
                self.happened.clear()
                for event in await self.events(job_id, after, 100):
                    after = event.id
                    yield encode(event)
                    if isinstance(event.body, StateChanged) and event.body.state in TERMINAL_STATES:
                        return
                self._fail()
                if self.ended:
                    return
                try:
                    async with asyncio.timeout(0.02):
                        await self.happened.wait()
                except TimeoutError:
                    self.ticks += 1
                    yield None
        finally:
            self.followers -= 1

    async def end_streams(self) -> None:
        self.ended = True
        self.happened.set()

    async def logs(self, job_id: str, tail: int) -> list[str]:
        return self.lines.get(job_id, [])[-tail:]

    async def change_node(self, node_id: str, verb: str, reason: str) -> bool | None:
        self._fail()
        for position, machine in enumerate(self.machines):
            if machine.id == node_id:
                wanted = {"cordoned": None if verb == "uncordon" else reason, "draining": verb.startswith("drain")}
                changed = (machine.cordoned is None) != (verb == "uncordon")
                if changed:
                    self.machines[position] = machine.model_copy(update=wanted)
                return changed
        return None

    async def offer(self) -> tuple[Catalog, tuple[NodeRecord, ...]]:
        return await self.catalog(), tuple(await self.nodes())

    async def nodes(self) -> list[NodeRecord]:
        return self.machines

    async def catalog(self) -> Catalog:
        return self.known

    async def check(self) -> None:
        self._fail()

    def happen(self, job_id: str, body: EventBody) -> Event:
        """Something happens to the job."""
        stream = self.streams.setdefault(job_id, [])
        event = Event(id=f"{1000 + len(stream)}-0", job_id=job_id, attempt=0, time=START, body=body)
        stream.append(event)
        self.happened.set()
        return event

    def move(self, job_id: str, state: JobState, **fields: Any) -> None:
        """The job comes to a state."""
        self.jobs[job_id] = self.jobs[job_id].model_copy(update={"state": state, **fields})
        self.happen(job_id, StateChanged(state=state))

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def _order(event_id: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in event_id.split("-")) if event_id else (-1,)


@dataclass
class Service:
    """A service over a fake store, with the folders that it may touch."""

    app: FastAPI
    store: FakeStore
    data: Path
    results: Path

    def spec(self, **fields: Any) -> dict[str, Any]:
        """A body that is accepted."""
        return {"ckpt_dir": str(self.data / "checkpoints"), "val_set": str(self.data / "val"), **fields}

    def client(self, token: str | None = None, **headers: str) -> httpx2.AsyncClient:
        """A plain HTTP client of the service."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx2.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


def make_service(folder: Path, **settings: Any) -> Service:
    """A new service; its store is the app's at once, so that no lifespan is needed."""
    data, results = folder / "data", folder / "results"
    for path in (data / "checkpoints", data / "val", results):
        path.mkdir(parents=True)
    store = FakeStore()

    @asynccontextmanager
    async def connect(_: Settings) -> AsyncIterator[FakeStore]:
        yield store

    app = create_app(Settings(roots=(data,), results_dir=results, **settings), connect)  # type: ignore[arg-type]  # the same surface
    app.state.store = store
    return Service(app, store, data, results)

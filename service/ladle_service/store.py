"""Jobs in Redis, for the API. Every change is a script of `ladle_contracts.transitions`; reads are plain commands."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis

from ladle_contracts import (
    Catalog,
    Event,
    JobPage,
    JobRecord,
    JobResult,
    JobSpec,
    JobState,
    MethodInfo,
    NodeRecord,
    Progress,
    Reason,
    StateChanged,
    TaskInfo,
    keys,
)
from ladle_contracts.events import EVENT_BODY
from ladle_contracts.jobs import TERMINAL_STATES
from ladle_contracts.transitions import SCRIPTS

IDEMPOTENCY_LIFE_MS = 24 * 3600 * 1000
MAX_FAILURES = 3
NODE_LIFE_MS = 10_000
"""A node whose heartbeat is older than this counts as dead."""
FOLLOW_TICK_MS = 5_000
FOLLOW_BATCH = 100
LIST_BATCH = 200


class IdempotencyConflict(Exception):
    """The idempotency key was used with another body before."""


class JobStore:
    """Redis errors (`redis.RedisError`) pass through, and the API answers `unavailable`.

    `redis` must decode responses. `streams` is a separate pool, because every job that is followed uses one connection.
    """

    def __init__(self, redis: Redis, streams: Redis) -> None:
        # redis-py's annotations do not know that responses are decoded.
        self._redis: Any = redis
        self._streams: Any = streams
        self._submit = redis.register_script(SCRIPTS["submit"])
        self._cancel = redis.register_script(SCRIPTS["cancel"])

    async def ping(self) -> None:
        await self._redis.ping()

    async def replay(self, owner: str, key: str, digest: str) -> JobRecord | None:
        """The job that this key created before, if any. Raises `IdempotencyConflict` for another body."""
        job_id, known = await self._redis.hmget(keys.idempotency(owner, key), ["job", "digest"])
        record = await self.get(job_id, owner) if job_id else None
        if record is not None and known != digest:
            raise IdempotencyConflict(key)
        return record

    async def submit(
        self, spec: JobSpec, owner: str, idempotency_key: str | None, body_digest: str
    ) -> tuple[JobRecord, bool]:
        """Queues a job. False if the key created it before. Raises `IdempotencyConflict`."""
        answer, job_id = await self._submit(
            args=[
                secrets.token_hex(10),
                owner,
                spec.model_dump_json(),
                spec.priority,
                spec.resources.nodes,
                spec.resources.ranks_per_node,
                MAX_FAILURES,
                idempotency_key or "",
                body_digest,
                IDEMPOTENCY_LIFE_MS,
            ]
        )
        if answer == "conflict":
            raise IdempotencyConflict(idempotency_key)
        record = await self.get(job_id, None)
        assert record is not None, "it was written a moment ago"
        return record, answer == "created"

    async def get(self, job_id: str, owner: str | None) -> JobRecord | None:
        """None if there is no such job, or it belongs to another owner. `owner=None` sees all jobs."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.job(job_id))
            pipe.hget(keys.progress(job_id), "json")
            fields, progress = await pipe.execute()
        if not fields or (owner is not None and fields["owner"] != owner):
            return None
        return record_from(fields, progress)

    async def list(
        self,
        owner: str | None,
        *,
        state: JobState | None = None,
        labels: Mapping[str, str] | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """Newest first. The cursor has the last job of the previous page and its time, as the job may be deleted."""
        index = keys.JOBS if owner is None else keys.owner_jobs(owner)
        start = await self._after(index, cursor) if cursor is not None else 0
        found: list[JobRecord] = []
        while batch := await self._redis.zrevrange(index, start, start + LIST_BATCH - 1):
            for job_id in batch:
                record = await self.get(job_id, owner)
                if record is None or (state is not None and record.state != state):
                    continue
                if labels and not labels.items() <= record.spec.labels.items():
                    continue
                if len(found) == limit:
                    return JobPage(jobs=tuple(found), next_cursor=_cursor(found[-1]))
                found.append(record)
            start += len(batch)
        return JobPage(jobs=tuple(found))

    async def _after(self, index: str, cursor: str) -> int:
        """Where a listing continues. For an invalid cursor that is the end."""
        created_ms, _, job_id = cursor.partition("-")
        if not created_ms.isdecimal():
            return int(await self._redis.zcard(index))
        rank = await self._redis.zrevrank(index, job_id)
        return int(await self._redis.zcount(index, f"({created_ms}", "+inf")) if rank is None else int(rank) + 1

    async def cancel(self, job_id: str) -> JobRecord:
        """Cancels the job. `cancel.lua` has what happens in which state."""
        await self._cancel(args=[job_id])
        record = await self.get(job_id, None)
        assert record is not None, "the caller has just seen it, and only terminal jobs are deleted"
        return record

    async def delete(self, job_id: str) -> None:
        """Deletes a job that has ended. The caller has checked that, and a terminal state never changes."""
        owner, key = await self._redis.hmget(keys.job(job_id), ["owner", "idempotency"])
        # The key lives for a day, so by now it may belong to a newer job.
        if key and await self._redis.hget(keys.idempotency(owner or "", key), "job") != job_id:
            key = None
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(keys.job(job_id), keys.progress(job_id), keys.events(job_id), keys.log(job_id))
            pipe.zrem(keys.JOBS, job_id)
            pipe.zrem(keys.owner_jobs(owner or ""), job_id)
            if key:
                pipe.delete(keys.idempotency(owner or "", key))
            await pipe.execute()

    async def events(self, job_id: str, after: str | None, limit: int) -> tuple[Event, ...]:
        """Oldest first, and only those after the id `after`."""
        start = f"({after}" if after else "-"
        entries = await self._redis.xrange(keys.events(job_id), min=start, count=limit)
        return tuple(_event(job_id, entry_id, fields) for entry_id, fields in entries)

    async def follow(self, job_id: str, after: str | None) -> AsyncGenerator[Event | None]:
        """Every event after the id `after` as it happens, and None from time to time. Ends after a terminal state."""
        last = after or "0"
        while True:
            answer = await self._streams.xread({keys.events(job_id): last}, count=FOLLOW_BATCH, block=FOLLOW_TICK_MS)
            if not answer:
                if await self._is_over(job_id, last):
                    return
                yield None
            for _, entries in answer:
                for entry_id, fields in entries:
                    last = entry_id
                    event = _event(job_id, entry_id, fields)
                    yield event
                    if isinstance(event.body, StateChanged) and event.body.state in TERMINAL_STATES:
                        return

    async def logs(self, job_id: str, tail: int) -> tuple[str, ...]:
        return tuple(await self._redis.lrange(keys.log(job_id), -tail, -1))

    async def nodes(self) -> tuple[NodeRecord, ...]:
        """Every node that has ever registered, by id."""
        return tuple(node for node, _ in await self._nodes_with_catalogs())

    async def _nodes_with_catalogs(self) -> tuple[tuple[NodeRecord, str | None], ...]:
        """Each node with the JSON of its catalogue."""
        seconds, micros = await self._redis.time()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        found = []
        for node_id in sorted(await self._redis.smembers(keys.NODES)):
            if fields := await self._redis.hgetall(keys.node(node_id)):
                found.append((_node(node_id, fields, now_ms), fields.get("catalog")))
        return tuple(found)

    async def catalog(self) -> Catalog:
        """What the nodes offer together. Where two differ, a node that is alive counts, then the first by id."""
        methods: dict[str, MethodInfo] = {}
        tasks: dict[str, TaskInfo] = {}
        nodes = await self._nodes_with_catalogs()
        for _, text in sorted(nodes, key=lambda pair: (not pair[0].alive, pair[0].id)):
            if text:
                catalog = Catalog.model_validate_json(text)
                methods = {info.name: info for info in catalog.methods} | methods
                tasks = {info.name: info for info in catalog.tasks} | tasks
        return Catalog(methods=tuple(methods.values()), tasks=tuple(tasks.values()))

    async def _is_over(self, job_id: str, last: str) -> bool:
        """Whether no more events can come: the job was deleted, or its last event was already seen."""
        state = await self._redis.hget(keys.job(job_id), "state")
        return state is None or (state in TERMINAL_STATES and not await self.events(job_id, last, 1))


def _cursor(record: JobRecord) -> str:
    return f"{round(record.created_at.timestamp() * 1000)}-{record.id}"


def record_from(fields: Mapping[str, str], progress: str | None) -> JobRecord:
    """The record from the fields of the job's hash. An empty field is an absent one."""
    return JobRecord(
        id=fields["id"],
        spec=JobSpec.model_validate_json(fields["spec"]),
        state=JobState(fields["state"]),
        created_at=_time(fields["created_at"]),
        started_at=_optional_time(fields.get("started_at")),
        finished_at=_optional_time(fields.get("finished_at")),
        attempt=int(fields["attempt"]),
        failures=int(fields["failures"]),
        max_failures=int(fields["max_failures"]),
        nodes=tuple(_list(fields["nodes"])),
        waiting_for=fields.get("waiting_for") or None,
        reason=Reason(fields["reason"]) if fields.get("reason") else None,
        message=fields.get("message") or None,
        log_tail=tuple(_list(fields.get("log_tail") or "[]")),
        progress=Progress.model_validate_json(progress) if progress else Progress(),
        result=JobResult.model_validate_json(fields["result"]) if fields.get("result") else None,
    )


def _event(job_id: str, entry_id: str, fields: Mapping[str, str]) -> Event:
    return Event(
        id=entry_id,
        job_id=job_id,
        attempt=int(fields["attempt"]),
        time=_time(fields["time"]),
        body=EVENT_BODY.validate_json(fields["body"]),
    )


def _node(node_id: str, fields: Mapping[str, str], now_ms: int) -> NodeRecord:
    heartbeat_ms = int(fields["heartbeat_at"])
    return NodeRecord(
        id=node_id,
        host=fields["host"],
        ranks=int(fields["ranks"]),
        gpus=tuple(_list(fields["gpus"])),
        # Workers of the version before do not say it.
        protections=tuple(_list(fields.get("protections", "[]"))),
        version=fields["version"],
        torch_version=fields["torch_version"],
        started_at=_time(fields["started_at"]),
        heartbeat_at=_time(fields["heartbeat_at"]),
        alive=heartbeat_ms + NODE_LIFE_MS > now_ms and fields.get("leaving") != "1",
        job_id=fields.get("job") or None,
    )


def _list(text: str) -> list[Any]:
    """A JSON list. Lua writes an empty list as `{}`."""
    return list(json.loads(text))


def _time(text: str) -> datetime:
    return datetime.fromtimestamp(int(text) / 1000, tz=UTC)


def _optional_time(text: str | None) -> datetime | None:
    return _time(text) if text else None

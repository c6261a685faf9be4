"""Jobs in Redis, for the API. Every change is a script of `ladle_contracts.transitions`; reads are plain commands."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from redis.asyncio import Redis

from ladle_contracts import (
    Catalog,
    Event,
    InspectRequest,
    JobPage,
    JobRecord,
    JobResult,
    JobSpec,
    JobState,
    MethodInfo,
    NodeRecord,
    Progress,
    Reason,
    TaskInfo,
    Vetting,
    keys,
    telemetry,
)
from ladle_contracts.events import read_event_body
from ladle_contracts.inspection import INSPECT_TIMEOUT_S
from ladle_contracts.job_spec import read_spec
from ladle_contracts.output_names import output_name
from ladle_contracts.transitions import SCRIPTS
from ladle_service.cursors import Cursor
from ladle_service.following import Feeds
from ladle_service.metrics import Measured
from ladle_service.request_ids import request_id
from ladle_service.sessions import CODE_S, IDLE_S
from ladle_service.waiting import Queue, with_wait

logger = logging.getLogger(__name__)

IDEMPOTENCY_LIFE_MS = 24 * 3600 * 1000
MAX_FAILURES = 3
NODE_LIFE_MS = 10_000
"""A node whose heartbeat is older than this counts as dead."""
PAGE_BYTES = 2 << 20
"""A page of jobs ends when it has so many bytes, so that a few large jobs cannot make it huge."""
LOOK_JOBS = 2_000
"""How many jobs one script looks at, so that nobody waits for Redis meanwhile."""
LOOK_S = 0.1
"""How often the answer of a node is looked for."""
MOST_INSPECTIONS = 16
"""How many may wait for a node. Each takes a node some seconds."""
LOOKS = 16
"""How many such scripts one listing runs. Then it gives what it has, and where to go on."""


class IdempotencyConflict(Exception):
    """The idempotency key was used with another body before."""


class QueueFull(Exception):
    """The owner has as many jobs in the queue as it may have."""


class NameTaken(Exception):
    """A job that has not ended will write a result of this name."""


class JobStore:
    """Redis errors (`redis.RedisError`) pass through, and the API answers `unavailable`.

    `redis` must decode responses. `streams` is for the one connection that waits for events.
    `most_queued` is how many queued jobs each owner may have.
    """

    def __init__(self, redis: Redis, streams: Redis, *, most_queued: int | None = None) -> None:
        self._most_queued = most_queued
        # redis-py's annotations do not know that responses are decoded.
        self._redis: Any = redis
        self._node_ids: list[str] = []
        """Those that were there last: they are asked for together with the list of all."""
        self._feeds = Feeds(streams, redis, _event)
        self._submit = redis.register_script(SCRIPTS["submit"])
        self._cancel = redis.register_script(SCRIPTS["cancel"])
        self._delete = redis.register_script(SCRIPTS["delete"])
        self._list = redis.register_script(SCRIPTS["list"])
        self._waiting = redis.register_script(SCRIPTS["waiting"])
        self._cordon = redis.register_script(SCRIPTS["cordon"])
        self._measure = redis.register_script(SCRIPTS["measure"])

    async def check(self) -> None:
        """Raises the error that a submit would meet. It is a write that changes nothing, so nothing is stored."""
        await self._redis.set(keys.PROBE, "", xx=True)

    async def measure(self) -> Measured:
        """What Prometheus is told, in one call."""
        return Measured.read(await self._measure(args=[NODE_LIFE_MS]))

    async def note_use(self, token_id: str, seconds: int) -> None:
        """When a token was last used, for `ladle token list`."""
        await self._redis.hset(keys.TOKENS_USED, token_id, seconds)

    async def last_uses(self, token_ids: Sequence[str]) -> list[datetime | None]:
        """When each token was last used."""
        used = await self._redis.hmget(keys.TOKENS_USED, token_ids) if token_ids else []
        return [datetime.fromtimestamp(int(text), tz=UTC) if text else None for text in used]

    async def begin_session(self, key: str, token_id: str) -> None:
        """A page has logged in with a token. `key` is `sessions.key_of`."""
        await self._redis.set(keys.session(key), token_id, ex=IDLE_S)

    async def session(self, key: str) -> str | None:
        """The id of the session's token. The session is kept for longer, because it is used."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.get(keys.session(key))
            pipe.expire(keys.session(key), IDLE_S)
            token_id, _ = await pipe.execute()
        return None if token_id is None else str(token_id)

    async def end_session(self, key: str) -> None:
        await self._redis.delete(keys.session(key))

    async def offer_login(self, key: str, token_id: str) -> None:
        """A code logs in with this token, once and soon. `key` is `sessions.key_of` of the code."""
        await self._redis.set(keys.login(key), token_id, ex=CODE_S)

    async def take_login(self, key: str) -> str | None:
        """The id of the token that the code stands for. The code is spent."""
        token_id = await self._redis.getdel(keys.login(key))
        return None if token_id is None else str(token_id)

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
        """Queues a job. False if the key created it before.

        Raises `IdempotencyConflict`, `QueueFull` or `NameTaken`.
        """
        new_id = secrets.token_hex(10)
        answer, job_id = await self._submit(
            args=[
                new_id,
                owner,
                _written(spec),
                spec.priority,
                spec.resources.nodes,
                _ranks_needed(spec),
                MAX_FAILURES,
                idempotency_key or "",
                body_digest,
                IDEMPOTENCY_LIFE_MS,
                "" if self._most_queued is None else self._most_queued,
                output_name(spec, new_id),
                spec.resources.min_nodes or spec.resources.nodes,
                spec.resources.timeout_s or "",
                spec.output.name or "",
                telemetry.traceparent(),
                request_id() or "",
            ]
        )
        if answer == "conflict":
            raise IdempotencyConflict(idempotency_key)
        if answer == "full":
            raise QueueFull(owner)
        if answer == "taken":
            raise NameTaken(spec.output.name)
        record = await self._in_queue(job_id)
        assert record is not None, "it was written a moment ago"
        return record, answer == "created"

    async def _in_queue(self, job_id: str) -> JobRecord | None:
        """What `get` says of a job that is most likely queued, in one round trip instead of two."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.job(job_id))
            pipe.evalsha(self._waiting.sha, 0, NODE_LIFE_MS, job_id)
            fields, waiting = await pipe.execute(raise_on_error=False)
        if not isinstance(fields, dict) or isinstance(waiting, Exception) or fields.get("state") != JobState.QUEUED:
            # Redis does not know the script yet, or a node has taken the job.
            return await self.get(job_id, None)
        queue = Queue.read(waiting)
        return with_wait(record_from(fields, None), queue.jobs[0], queue)

    async def get(self, job_id: str, owner: str | None) -> JobRecord | None:
        """None if there is no such job, or it belongs to another owner. `owner=None` sees all jobs."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.job(job_id))
            pipe.hget(keys.progress(job_id), "json")
            fields, progress = await pipe.execute()
        if not fields or (owner is not None and fields["owner"] != owner):
            return None
        return (await self._with_waits([record_from(fields, progress)]))[0]

    async def list(
        self,
        owner: str | None,
        *,
        state: JobState | None = None,
        labels: Mapping[str, str] | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """Newest first. A page may have fewer than `limit` jobs though there are more: `next_cursor` tells.

        Raises ValueError for an invalid cursor.
        """
        place = Cursor.parse(cursor) if cursor is not None else Cursor("", "")
        found: list[JobRecord] = []
        ended, room = "more", PAGE_BYTES
        for _ in range(LOOKS):
            (ended, created_ms, job_id, size), *jobs = await self._list(
                args=[
                    *(owner or "", state or "", place.created_ms, place.job_id, limit - len(found), room, LOOK_JOBS),
                    *(text for pair in (labels or {}).items() for text in pair),
                ]
            )
            found += [record for job in jobs for record in _readable(*json.loads(job))]
            place, room = Cursor(created_ms, job_id), room - size
            if ended != "more":
                break
        return JobPage(jobs=tuple(await self._with_waits(found)), next_cursor=None if ended == "end" else str(place))

    async def newest(self, owner: str | None, most: int) -> tuple[Sequence[str], int]:
        """The ids of the newest jobs, newest first, and how many jobs there are."""
        key = keys.JOBS if owner is None else keys.owner_jobs(owner)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrevrange(key, 0, most - 1)
            pipe.zcard(key)
            ids, total = await pipe.execute()
        return ids, total

    async def fields_of(self, job_ids: Sequence[str], names: Sequence[str]) -> Sequence[Mapping[str, str | None]]:
        """Some fields of the hash of each job, as they are. All are None of a job that is not there."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(keys.job(job_id), names)
            return [dict(zip(names, values, strict=True)) for values in await pipe.execute()]

    async def records(self, job_ids: Sequence[str]) -> Sequence[JobRecord]:
        """The records of those jobs that are there and that this version can read."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(keys.job(job_id))
                pipe.hget(keys.progress(job_id), "json")
            answers = await pipe.execute()
        pairs = zip(answers[::2], answers[1::2], strict=True)
        found = [record for fields, progress in pairs if fields for record in _readable(fields, progress)]
        return await self._with_waits(found)

    async def _with_waits(self, records: Sequence[JobRecord]) -> Sequence[JobRecord]:
        """The same records, with how the queued ones wait. It changes often, so it is stored nowhere."""
        queued = [record.id for record in records if record.state is JobState.QUEUED]
        if not queued:
            return records
        queue = Queue.read(await self._waiting(args=[NODE_LIFE_MS, *queued]))
        turns = dict(zip(queued, queue.jobs, strict=True))
        return [with_wait(record, turns.get(record.id), queue) for record in records]

    async def cancel(self, job_id: str) -> JobRecord:
        """Cancels the job. `cancel.lua` has what happens in which state."""
        await self._cancel(args=[job_id])
        record = await self.get(job_id, None)
        assert record is not None, "the caller has just seen it, and only terminal jobs are deleted"
        return record

    async def delete(self, job_id: str) -> None:
        """Deletes a job that has ended. For a week Redis still knows how, for nodes that find files of it."""
        await self._delete(args=[job_id])

    async def events(self, job_id: str, after: str | None, limit: int) -> tuple[Event, ...]:
        """Oldest first, and only those after the id `after`."""
        start = f"({after}" if after else "-"
        entries = await self._redis.xrange(keys.events(job_id), min=start, count=limit)
        return tuple(_event(job_id, entry_id, fields) for entry_id, fields in entries)

    def follow(self, job_id: str, after: str | None) -> AsyncGenerator[bytes | None]:
        """The events after the id `after`, encoded, as they happen: `Feeds.follow`."""
        return self._feeds.follow(job_id, after)

    async def end_streams(self) -> None:
        """Ends whatever `follow` still gives."""
        await self._feeds.end()

    async def logs(self, job_id: str, tail: int) -> tuple[str, ...]:
        return tuple(await self._redis.lrange(keys.log(job_id), -tail, -1))

    async def inspect(self, request: InspectRequest, timeout_s: float = INSPECT_TIMEOUT_S) -> str | None:
        """The JSON that a node answers; None if none does in time. Raises `QueueFull` where too many wait already."""
        request_id = secrets.token_hex(10)
        seconds, micros = await self._redis.time()
        entry = {
            "id": request_id,
            "deadline_ms": int(seconds) * 1000 + int(micros) // 1000 + round(timeout_s * 1000),
            "request": request.model_dump(mode="json"),
        }
        text = json.dumps(entry)
        if await self._redis.rpush(keys.INSPECTIONS, text) > MOST_INSPECTIONS:
            await self._redis.lrem(keys.INSPECTIONS, 1, text)
            raise QueueFull
        try:
            # Not a command that waits in Redis: it would take a connection away from other requests.
            async with asyncio.timeout(timeout_s):
                while (answer := await self._redis.getdel(keys.inspection(request_id))) is None:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            return None
        finally:
            await asyncio.shield(self._redis.lrem(keys.INSPECTIONS, 1, text))
        return str(answer)

    async def nodes(self) -> tuple[NodeRecord, ...]:
        """Every node that has registered and was not gone for too long, by id."""
        return tuple(node for node, _ in await self._nodes_with_catalogs())

    async def change_node(self, node_id: str, verb: str, reason: str) -> bool | None:
        """Says whether the node takes jobs: `cordon.lua`. False if it was so before, None for an unknown node."""
        answer = await self._cordon(args=[node_id, verb, reason])
        return None if answer == "unknown" else answer == "changed"

    async def _nodes_with_catalogs(self) -> tuple[tuple[NodeRecord, str | None], ...]:
        """Each node with the JSON of its catalogue."""
        async with self._redis.pipeline(transaction=False) as pipe:
            ids = self._node_ids
            (seconds, micros), known, *answers = await _ask_nodes(pipe, ids)
            if known != set(ids):
                ids = self._node_ids = sorted(known)
                (seconds, micros), _, *answers = await _ask_nodes(pipe, ids)
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        return tuple(
            (_node(node_id, fields, jobs if _dispatches(fields) else (), now_ms), fields.get("catalog"))
            for node_id, fields, jobs in zip(ids, answers[::2], answers[1::2], strict=True)
            if fields
        )

    async def catalog(self) -> Catalog:
        """What the nodes offer together. Where two differ, a node that is alive counts, then the first by id."""
        return (await self.offer())[0]

    async def offer(self) -> tuple[Catalog, tuple[NodeRecord, ...]]:
        """The catalogue, and the nodes that it is from."""
        methods: dict[str, MethodInfo] = {}
        tasks: dict[str, TaskInfo] = {}
        nodes = await self._nodes_with_catalogs()
        for node, text in sorted(nodes, key=lambda pair: (not pair[0].alive, pair[0].id)):
            if text:
                catalog = _read_catalog(node.id, text)
                methods = {info.name: info for info in catalog.methods} | methods
                tasks = {info.name: info for info in catalog.tasks} | tasks
        offered = Catalog(methods=tuple(methods.values()), tasks=tuple(tasks.values()))
        return offered, tuple(node for node, _ in nodes)


async def _ask_nodes(pipe: Any, ids: Sequence[str]) -> list[Any]:
    """The time, the ids of all nodes, and of each of `ids` its hash and the set of its jobs."""
    pipe.time()
    pipe.smembers(keys.NODES)
    for node_id in ids:
        pipe.hgetall(keys.node(node_id))
        pipe.smembers(keys.node_jobs(node_id))
    answers: list[Any] = await pipe.execute()
    return answers


@lru_cache(maxsize=64)
def _read_catalog(node_id: str, text: str) -> Catalog:
    """Kept, because each submit looks at all nodes. Empty if this version cannot read it: the others' count."""
    try:
        return Catalog.read(text)
    except ValueError:
        logger.exception("what node %s offers does not count, because this version cannot read it", node_id)
        return Catalog(methods=(), tasks=())


def _written(spec: JobSpec) -> str:
    """Without what nobody has asked for and a worker of the version before need not know."""
    absent: dict[str, Any] = {"resources": {name for name, value in spec.resources if value is None}}
    newer = ("tracking", "webhooks", "kind", "curve")
    absent |= {name: True for name in newer if getattr(spec, name) == JobSpec.model_fields[name].default}
    return spec.model_dump_json(exclude=absent)


def _ranks_needed(spec: JobSpec) -> int:
    """How many ranks a node must be able to run. 0 where any node will do, with as many as it has GPUs."""
    return spec.resources.ranks_per_node or 0


def _readable(fields: Mapping[str, str], progress: str | None) -> list[JobRecord]:
    """The record. None if this version cannot read it: one such job must not hide all others."""
    try:
        return [record_from(fields, progress)]
    except (ValueError, KeyError):
        logger.exception("job %s is not listed, because this version cannot read it", fields.get("id"))
        return []


def record_from(fields: Mapping[str, str], progress: str | None) -> JobRecord:
    """The record from the fields of the job's hash. An empty field is an absent one."""
    return JobRecord(
        id=fields["id"],
        spec=read_spec(fields["spec"]),
        state=JobState.read(fields["state"]),
        created_at=_time(fields["created_at"]),
        started_at=_optional_time(fields.get("started_at")),
        finished_at=_optional_time(fields.get("finished_at")),
        output_name=fields.get("output") or None,
        attempt=int(fields["attempt"]),
        failures=int(fields["failures"]),
        node_failures=int(fields.get("node_failures") or 0),
        max_failures=int(fields["max_failures"]),
        nodes=tuple(_list(fields["nodes"])),
        reason=Reason.read(fields["reason"]) if fields.get("reason") else None,
        message=fields.get("message") or None,
        waiting_for=(fields["state"] == JobState.RUNNING and fields.get("waits_for")) or None,
        log_tail=tuple(_list(fields.get("log_tail") or "[]")),
        progress=Progress.read(progress) if progress else Progress(),
        result=JobResult.read(fields["result"]) if fields.get("result") else None,
    )


def _event(job_id: str, entry_id: str, fields: Mapping[str, str]) -> Event:
    return Event(
        id=entry_id,
        job_id=job_id,
        attempt=int(fields["attempt"]),
        time=_time(fields["time"]),
        body=read_event_body(fields["body"]),
    )


def _dispatches(fields: Mapping[str, str]) -> bool:
    return fields.get("dispatches") == "1"


def _node(node_id: str, fields: Mapping[str, str], jobs: Iterable[str], now_ms: int) -> NodeRecord:
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
        alive=abs(now_ms - heartbeat_ms) < NODE_LIFE_MS and fields.get("leaving") != "1",
        job_id=fields.get("job") or None,
        dispatches=_dispatches(fields),
        holds=int(fields.get("holds") or 1),
        job_ids=tuple(sorted(jobs)),
        cordoned=fields.get("cordoned") or None,
        draining=bool(fields.get("draining")),
        failures_in_row=int(fields.get("failures_in_row") or 0),
        last_failure=fields.get("failure_message") or None,
        vetting=_vetting(node_id, fields.get("vetting")),
    )


def _vetting(node_id: str, text: str | None) -> Vetting | None:
    try:
        return Vetting.read(text) if text else None
    except ValueError:
        logger.warning("this version cannot read the vetting of node %s", node_id)
        return None


def _list(text: str) -> list[Any]:
    """A JSON list. Lua writes an empty list as `{}`."""
    return list(json.loads(text))


def _time(text: str) -> datetime:
    return datetime.fromtimestamp(int(text) / 1000, tz=UTC)


def _optional_time(text: str | None) -> datetime | None:
    return _time(text) if text else None

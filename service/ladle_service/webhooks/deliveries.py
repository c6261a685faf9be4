"""What is still to be told of jobs that have ended. Redis holds it, so that it outlives every process.

Each job that ends is put into `ladle:webhooks` by the same script that ends it. The elected scheduler takes those that
are due, calls, and notes how it went with its fence. Whatever dies in between, the job stays there: so each address is
called at least once, and perhaps twice with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ladle_contracts import JobRecord, keys
from ladle_contracts.transitions import SCRIPTS
from ladle_service.ending import end
from ladle_service.store import record_from
from ladle_service.webhooks.calling import Caller, CallFailed
from ladle_service.webhooks.signing import Secret

logger = logging.getLogger(__name__)

WAITS_S = (5, 30, 120, 600, 1800, 3600, 7200, 18_000, 36_000)
"""How long after each failure the next call comes: ten calls over some twenty hours. Then it is given up."""
AT_ONCE = 32
OF_ONE_OWNER = 4
"""Jobs at once: addresses that do not answer must not keep others waiting."""
BUSY_S = 2.0
"""When a job is looked at again whose owner has as many calls."""
REST_S = 30.0
"""When a job is called for again after Redis has not taken how it went."""
GONE = 410
"""The receiver wants no more."""
DELIVERED, RETRYING, GIVEN_UP = "delivered", "retrying", "given-up"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One address and how far the call of it is."""

    url: str
    secret: Secret
    tries: int = 0
    due_s: float = 0.0
    """By the clock of this machine, as seconds since 1970."""
    went: str = RETRYING
    """How the last one went, if there was one."""
    failure: str = ""

    @property
    def is_over(self) -> bool:
        return self.went != RETRYING

    def noted(self) -> str:
        kept = {"tries": self.tries, "due_s": self.due_s, "went": self.went, "failure": self.failure}
        return json.dumps(kept)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Who is told of jobs."""

    secret: Secret | None
    """The operator's. Without it nobody is told."""
    always: Sequence[str] = ()
    """The operator's own addresses, which are told of every job."""

    def calls(self, record: JobRecord, owner: str, noted: Mapping[str, str]) -> list[Call]:
        """One for each address, as far as it is."""
        if self.secret is None:
            return []
        secrets = dict.fromkeys(record.spec.webhooks, self.secret.of_owner(owner)) | dict.fromkeys(
            self.always, self.secret
        )
        return [Call(url=url, secret=secret, **json.loads(noted.get(url, "{}"))) for url, secret in secrets.items()]


class Deliveries:
    """Call `step` in every round of the elected scheduler: it starts what is due and waits for nothing."""

    def __init__(self, redis: Redis, targets: Targets, caller: Caller, *, waits_s: Sequence[float] = WAITS_S) -> None:
        # redis-py's annotations do not know that responses are decoded.
        self._redis: Any = redis
        self._told = redis.register_script(SCRIPTS["told"])
        self._targets = targets
        self._caller = caller
        self._waits_s = waits_s
        self._running: dict[str, asyncio.Task[None]] = {}
        self._owners: Counter[str] = Counter()
        self._resting: dict[str, float] = {}

    async def step(self, fence: str) -> None:
        """Raises `RedisError`."""
        if len(self._running) >= AT_ONCE:
            return
        now = time.monotonic()
        self._resting = {job_id: until for job_id, until in self._resting.items() if until > now}
        seconds, micros = await self._redis.time()
        due_ms = int(seconds) * 1000 + int(micros) // 1000
        found = await self._redis.zrangebyscore(keys.WEBHOOKS, "-inf", due_ms, start=0, num=4 * AT_ONCE)
        new = [job_id for job_id in found if job_id not in self._running and job_id not in self._resting]
        for job_id in new[: AT_ONCE - len(self._running)]:
            self._running[job_id] = asyncio.create_task(self._tell_of(fence, job_id))

    async def close(self) -> None:
        """Calls that are on the way are cut off. The next scheduler makes them again."""
        for task in list(self._running.values()):
            await end(task)

    async def _tell_of(self, fence: str, job_id: str) -> None:
        try:
            await self._tell(fence, job_id)
        except RedisError as error:
            logger.warning("how the webhooks of job %s went could not be noted: %r", job_id, error)
            self._resting[job_id] = time.monotonic() + REST_S
        except Exception:
            logger.exception("the webhooks of job %s failed", job_id)
            self._resting[job_id] = time.monotonic() + REST_S
        finally:
            self._running.pop(job_id, None)

    async def _tell(self, fence: str, job_id: str) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.job(job_id))
            pipe.hget(keys.progress(job_id), "json")
            pipe.hgetall(keys.webhooks(job_id))
            fields, progress, noted = await pipe.execute()
        if not fields:
            await self._note(fence, job_id, [], [])
            return
        record, owner = record_from(fields, progress), fields["owner"]
        calls = self._targets.calls(record, owner, noted)
        now_s = time.time()
        due = [call for call in calls if not call.is_over and call.due_s <= now_s]
        if due and self._owners[owner] >= OF_ONE_OWNER:
            await self._told(args=[fence, job_id, round(BUSY_S * 1000)])
            return
        self._owners[owner] += 1
        try:
            made = await asyncio.gather(*(self._made(call, record) for call in due))
        finally:
            self._owners[owner] -= 1
            self._owners += Counter()  # without those that have none
        await self._note(fence, job_id, made, [call for call in calls if call not in due])

    async def _made(self, call: Call, record: JobRecord) -> Call:
        """The call as it went."""
        now_s = time.time()
        body = message(record)
        headers = call.secret.headers(f"msg_{record.id}", int(now_s), body)
        try:
            status = await self._caller.post(call.url, body, {"user-agent": f"Ladle/{version('ladle')}", **headers})
        except CallFailed as error:
            return self._after_failure(call, str(error))
        if 200 <= status < 300:
            return Call(url=call.url, secret=call.secret, tries=call.tries + 1, went=DELIVERED)
        host = urlsplit(call.url).hostname
        return self._after_failure(call, f"`{host}` has answered with status {status}.", is_final=status == GONE)

    def _after_failure(self, call: Call, failure: str, *, is_final: bool = False) -> Call:
        is_over = is_final or call.tries >= len(self._waits_s)
        return Call(
            url=call.url,
            secret=call.secret,
            tries=call.tries + 1,
            due_s=0.0 if is_over else time.time() + self._waits_s[call.tries],
            went=GIVEN_UP if is_over else RETRYING,
            failure=failure,
        )

    async def _note(self, fence: str, job_id: str, made: Sequence[Call], others: Sequence[Call]) -> None:
        open_ = [call.due_s for call in (*made, *others) if not call.is_over]
        wait_ms = "" if not open_ else max(0, round((min(open_) - time.time()) * 1000))
        noted = [text for call in made for text in (call.url, call.went, call.noted())]
        answer = await self._told(args=[fence, job_id, wait_ms, *noted])
        if answer == "deposed":
            logger.info("another scheduler goes on with the webhooks of job %s", job_id)
        for call in made:
            if call.failure:
                what = "are given up" if call.is_over else "are tried again"
                logger.warning("webhooks of job %s %s after %d calls: %s", job_id, what, call.tries, call.failure)


def message(record: JobRecord) -> bytes:
    """What is sent: the same for every try."""
    assert record.finished_at is not None, "it has ended"
    told = {
        "type": f"job.{record.state}",
        "timestamp": record.finished_at.isoformat().replace("+00:00", "Z"),
        "data": record.model_dump(mode="json"),
    }
    return json.dumps(told, separators=(",", ":")).encode()

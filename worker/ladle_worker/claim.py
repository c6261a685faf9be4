"""The node agent's side of the job's state machine. Every call passes the attempt number, the fencing token."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pydantic import ValidationError

from ladle_contracts import TERMINAL_STATES, JobResult, JobSpec, Progress, Reason, Vetting, keys
from ladle_contracts.rules import broken_rules
from ladle_contracts.transitions import BACKOFF_MS, SCRIPTS
from ladle_worker.connection import connect, patiently
from ladle_worker.settings import Settings
from ladle_worker.well_formed import well_formed


class NotOurs(Exception):
    """The claim was refused, because the message is a duplicate or comes too late."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an attempt ended, for `Claim.end`."""

    outcome: str
    """`succeeded`, `failed`, `crashed`, `node-failed` or `released`. `end.lua` explains them."""
    reason: Reason | None = None
    message: str = ""
    result: JobResult | None = None
    log_tail: Sequence[str] = ()
    nodes: Sequence[str] | None = None
    """The nodes that are to blame. By default this one, if the outcome is `node-failed`."""


@dataclass(frozen=True, kw_only=True)
class Fate:
    """A job as whoever finds its files sees it."""

    state: str
    output: str
    """The name of the result's folder."""

    @property
    def is_over(self) -> bool:
        return self.state in TERMINAL_STATES


def fate_of(redis: Any, job_id: str) -> Fate | None:
    """Also of a job that was deleted not long ago. None if this Redis does not know it. Raises `RedisError`."""
    state, spec, output = redis.hmget(keys.job(job_id), ["state", "spec", "output"])
    if state:
        # Jobs of earlier versions have no name of their own.
        return Fate(state=state, output=output or json.loads(spec).get("output", {}).get("name") or job_id)
    state, output = redis.hmget(keys.deleted(job_id), ["state", "output"])
    return Fate(state=state, output=output) if state else None


class Claim:
    """One attempt of one job, held by this node.

    Changes of state wait until Redis can be used. Renewals and reports raise `RedisError` at once, and the next one
    tries again.
    """

    def __init__(self, settings: Settings, job_id: str, attempt: int) -> None:
        """Claims the attempt. Raises `NotOurs`."""
        self.job_id = job_id
        self.attempt = attempt
        self._node = settings.node_id
        self._lease_ms = round(settings.lease_s * 1000)
        self._redis = connect(settings)
        # Repeated with the same token: if the first answer was lost, the attempt is this process' all the same.
        answer, *rest = self._call("claim", self._node, self._lease_ms, secrets.token_hex(8))
        if answer != "ok":
            self.close()
            raise NotOurs(f"attempt {attempt} of job {job_id} on node {self._node}: {answer}")
        nodes, ran_ms, output, trace, request_id = patiently(
            lambda: self._redis.hmget(keys.job(job_id), [*("nodes", "ran_ms", "output", "trace", "request_id")])
        )
        self.nodes: tuple[str, ...] = tuple(json.loads(nodes))
        """All nodes of the attempt. The first one runs rank 0, and speaks for the job."""
        self.ran_s = int(ran_ms or 0) / 1000
        """How long the job's earlier attempts have run together."""
        self.trace: str = trace or ""
        """The `traceparent` of the request that submitted it, where traces are on."""
        self.request_id: str = request_id or ""
        """The id of that request."""
        self.spec = self._understand(rest[0])
        # Jobs of earlier versions have no name of their own.
        self.output: str = output or self.spec.output.name or job_id
        """The name of the result's folder."""

    def _understand(self, text: str) -> JobSpec:
        """The spec. A service of another version may have accepted values that mean nothing here."""
        try:
            return JobSpec.read(text)
        except ValidationError as error:
            rules = " ".join(f"`{each.field}` {each.describe()}." for each in broken_rules(error))
            message = (
                f"The service has accepted a job that this worker (version {version('ladle')}) does not understand: "
                f"{rules} Install the same version of Ladle on both."
            )
            self.end(Ended(outcome="failed", reason=Reason.VERSION_MISMATCH, message=message))
            self.close()
            raise NotOurs(f"attempt {self.attempt} of job {self.job_id}: {message}") from error

    def renew(self, waits_for: str = "") -> str:
        """`ok`, `cancel`, `release` or `lost`. Raises `RedisError`.

        `waits_for` is what the job waits for in the scheduler that it was handed over to.
        """
        answer: str = self._redis.register_script(SCRIPTS["renew"])(
            args=well_formed([self.job_id, self.attempt, self._node, self._lease_ms, waits_for])
        )
        return answer

    @property
    def node_rank(self) -> int:
        """The place of this node among them."""
        return self.nodes.index(self._node)

    @property
    def speaks(self) -> bool:
        """Whether this node has rank 0, which tells of progress and writes the result."""
        return self.node_rank == 0

    def meet(self, place: str) -> tuple[str, tuple[str, ...]]:
        """Says that this node is ready, and where it is. Raises `RedisError`.

        `ok` with the places of all nodes in their order, `wait` with the nodes that are late, or what `renew` says
        of an attempt that must end.
        """
        answer, *rest = self._redis.register_script(SCRIPTS["meet"])(
            args=[self.job_id, self.attempt, self._node, self._lease_ms, place]
        )
        return answer, tuple(rest)

    def renew_patiently(self) -> str:
        """The same, but waits until Redis is back."""
        answer: str = self._call("renew", self._node, self._lease_ms)
        return answer

    def report(
        self,
        offset: int,
        progress: Progress | None,
        bodies: Sequence[str],
        lines: Sequence[str],
        counted: Mapping[str, float] | None = None,
    ) -> None:
        """Sends events and log lines up to `offset`. The same offset twice is written once. Raises `RedisError`."""
        snapshot = progress.model_dump_json() if progress else ""
        more = json.dumps(counted) if counted else ""
        arguments = [self.job_id, self.attempt, offset, snapshot, len(bodies), more, *bodies, *lines]
        self._redis.register_script(SCRIPTS["report"])(args=well_formed(arguments))

    def keep_state(self, files: Mapping[str, str], *, whole: bool) -> None:
        """Copies files of the resume state, in base64, for other nodes. `whole`: what was there before goes. Raises
        `RedisError`."""
        arguments = [self.job_id, self.attempt, "all" if whole else "some"]
        pairs = [text for pair in files.items() for text in pair]
        self._redis.register_script(SCRIPTS["keep_state"])(args=[*arguments, *pairs])

    def state_copy(self) -> dict[str, str]:
        """What an attempt has kept; empty if none has."""
        copy: dict[str, str] = patiently(lambda: self._redis.hgetall(keys.state_copy(self.job_id)))
        return copy

    def finalize(self) -> str:
        """`ok`: the result may be moved to its place, while the lease lasts. `cancel` or `lost`: it must not be."""
        answer: str = self._call("finalize", self._node, self._lease_ms)
        return answer

    def end(self, ended: Ended) -> str:
        """The job's new state, or `lost` if the attempt was no longer ours."""
        answer: str = self._call(
            "end",
            ended.outcome,
            ended.reason or "",
            ended.message,
            ended.result.model_dump_json() if ended.result else "",
            json.dumps(well_formed(list(ended.log_tail))),
            BACKOFF_MS,
            *self._to_blame(ended),
        )
        return answer

    def _to_blame(self, ended: Ended) -> Sequence[str]:
        if ended.nodes is not None:
            return ended.nodes
        return (self._node,) if ended.outcome == "node-failed" else ()

    def note_fetching(self, *, begins: bool) -> None:
        """Far files may take their time: the other nodes wait for this one until it has them. Raises `RedisError`."""
        self._redis.hset(keys.job(self.job_id), f"fetching:{self._node}", self.attempt if begins else "")

    def last_vetting(self) -> Vetting | None:
        """This node's. Raises `RedisError`."""
        text = self._redis.hget(keys.node(self._node), "vetting")
        return Vetting.read(text) if text else None

    def note_vetting(self, vetting: Vetting) -> None:
        """With a heartbeat of this node. Raises `RedisError`."""
        self._redis.register_script(SCRIPTS["heartbeat"])(args=[self._node, vetting.model_dump_json()])

    def fate(self) -> Fate | None:
        """What became of the job, whoever ended it. None if it is gone."""
        return patiently(lambda: fate_of(self._redis, self.job_id))

    def close(self) -> None:
        self._redis.close()

    def _call(self, script: str, *arguments: object) -> Any:
        run = self._redis.register_script(SCRIPTS[script])
        return patiently(lambda: run(args=well_formed([self.job_id, self.attempt, *arguments])))

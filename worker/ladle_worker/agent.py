"""One attempt on this node: claim, start the ranks, relay progress, move the result to its place, release."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from redis.exceptions import RedisError

from ladle_contracts import JobResult, Reason
from ladle_contracts.roots import PathNotAllowed, resolve_inside
from ladle_worker.claim import Claim, Ended
from ladle_worker.confinement.plan import MEMORY, Plan, devices, readable, writable
from ladle_worker.job_folder import JobFolder, write_whole
from ladle_worker.launch import Ranks
from ladle_worker.memory_kills import about_memory, count_kills
from ladle_worker.relay import Relay, log_tail
from ladle_worker.settings import Settings
from ladle_worker.stall import StallWatch
from ladle_worker.torchrun import KILLED_STATUSES

logger = logging.getLogger(__name__)

STOPPED = {"cancel", "release", "lost"}


def run_attempt(settings: Settings, job_id: str, attempt: int, protections: Collection[str] = ()) -> str:
    """Runs one attempt and returns the job's new state. Raises `NotOurs` if the claim is refused."""
    claim = Claim(settings, job_id, attempt)
    try:
        ended = Attempt(settings, claim, protections).run()
        # If it is lost, another attempt may already be running, and the files belong to that one.
        state = claim.end(ended) if ended is not None else "lost"
        if state in ("succeeded", "failed", "cancelled"):
            JobFolder(settings.results_dir, job_id).remove()
        return state
    finally:
        claim.close()


class Attempt:
    """What happens between a claim and its end."""

    def __init__(self, settings: Settings, claim: Claim, protections: Collection[str] = ()) -> None:
        self._settings = settings
        self._protections = protections
        self._claim = claim
        self._job = JobFolder(settings.results_dir, claim.job_id)
        self._folder = self._job.attempt(claim.attempt)
        self._destination = self._job.destination(claim.spec)

    def run(self) -> Ended | None:
        """None if the attempt is no longer ours."""
        try:
            return self._adopt() or self._start()
        except PathNotAllowed as error:
            return Ended(outcome="failed", reason=Reason.PATH_NOT_ALLOWED, message=str(error))
        except OSError as error:
            logger.exception("the agent of job %s failed", self._claim.job_id)
            return Ended(outcome="crashed", reason=Reason.CRASHED, message=f"The node agent failed: {error}.")
        except RedisError:
            raise
        except Exception as error:
            # Another attempt would only meet it again, on this node or the next.
            logger.exception("the agent of job %s failed", self._claim.job_id)
            message = f"The node agent failed with {type(error).__name__}: {error}. This is a mistake in Ladle."
            return Ended(outcome="failed", reason=Reason.INTERNAL_ERROR, message=message)

    def _adopt(self) -> Ended | None:
        """If the destination exists, it is the result of an earlier attempt of this job, or somebody else's folder."""
        if not os.path.lexists(self._destination):
            return None
        if _made_by(self._destination) == self._claim.job_id:
            for number in range(self._claim.attempt - 1, 0, -1):
                outcome = self._job.attempt(number).read_outcome()
                if outcome and outcome["ok"] and self._claim.finalize() == "ok":
                    return Ended(outcome="succeeded", result=_result(outcome))
        return Ended(
            outcome="failed",
            reason=Reason.OUTPUT_EXISTS,
            message=f"`output.name` must be a new folder, but `{self._destination}` exists. Choose another name.",
        )

    def _start(self) -> Ended | None:
        self._job.remove_staging()
        plan = self._plan(self._write_job())
        kills = count_kills()
        ranks = Ranks(
            self._folder,
            self._claim.job_id,
            self._claim.spec.resources.ranks_per_node,
            self._settings.rank_module,
            plan,
        )
        try:
            answer = self._watch(ranks)
            if answer == "stalled":
                ranks.tell_where_they_are()
        finally:
            ranks.end(self._settings.kill_grace_s)
        if answer == "lost":
            logger.warning("attempt %s of job %s was lost", self._claim.attempt, self._claim.job_id)
            return None
        if answer == "release":
            return Ended(outcome="released", reason=Reason.NODE_LOST, message="The node is shutting down.")
        if answer == "cancel":
            return Ended(outcome="failed", reason=Reason.CANCELLED)
        if answer == "stalled":
            return self._stalled()
        return self._out_of_memory(ranks.poll(), kills) or self._conclude(ranks.poll())

    def _stalled(self) -> Ended:
        stage, limit_s = self._relay.stage, self._stall.limit_s(self._relay.stage)
        with suppress(RedisError):
            # Where the ranks stood.
            while self._relay.send(to_end=True):
                continue
        return Ended(
            outcome="crashed",
            reason=Reason.STALLED,
            message=f"A job must make progress, but in stage `{stage or 'start'}` nothing moved for {limit_s:g} s. A "
            "disk may hang, or a task. The end of the log says where each rank was. The limit is `LADLE_STALL_S`.",
            log_tail=log_tail(self._folder),
        )

    def _out_of_memory(self, status: int | None, kills: int) -> Ended | None:
        """What ended without an outcome because of memory. Another attempt would need as much."""
        if self._folder.read_outcome() is not None:
            return None
        tail = log_tail(self._folder)
        if not (status in KILLED_STATUSES and count_kills() > kills) and not (status and about_memory(tail)):
            return None
        return Ended(
            outcome="failed",
            reason=Reason.OUT_OF_MEMORY,
            message="The job must fit into free memory, but a rank was ended because there was no more. Give a smaller "
            "task option `batch_size`, or a node with more memory.",
            log_tail=tail,
        )

    def _plan(self, inputs: str) -> Plan:
        """How the ranks are confined. They may write what is this attempt's own, and nothing else of the results."""
        settings = self._settings
        staging = self._job.staging(self._claim.attempt)
        # A folder that is to be writable must be there before the ranks start.
        staging.mkdir()
        redis = settings.redis_socket
        secrets = [path for path in (settings.redis_password_file, redis) if path is not None]
        return Plan(
            agent=os.getpid(),
            protections=tuple(self._protections),
            inputs=inputs,
            outputs=str(settings.results_dir),
            read=readable(settings.roots, settings.rank_read, secrets),
            write=writable((self._folder.path, self._job.state, staging), settings.rank_write),
            devices=devices(),
            hidden=(str(redis),) if redis is not None else (),
        )

    def _write_job(self) -> str:
        """Resolves every path inside the roots and writes them for the ranks. Returns the checkpoints' folder."""
        spec, roots = self._claim.spec, self._settings.roots
        paths = {
            "ckpt_dir": str(resolve_inside(spec.ckpt_dir, roots, field="ckpt_dir")),
            "val_set": str(resolve_inside(spec.val_set, roots, field="val_set")),
            "train_set": str(resolve_inside(spec.train_set.path, roots, field="train_set.path"))
            if spec.train_set
            else None,
        }
        self._folder.path.mkdir(parents=True, exist_ok=True)
        self._job.state.mkdir(exist_ok=True)
        job = {
            **paths,
            "job_id": self._claim.job_id,
            "attempt": self._claim.attempt,
            "spec": spec.model_dump(mode="json"),
            "staging": str(self._job.staging(self._claim.attempt)),
            "destination": str(self._destination),
            "state": str(self._job.state),
            "limit_memory": MEMORY in self._protections,
        }
        write_whole(self._folder.job, job)
        self._folder.pulse.touch()
        return str(job["ckpt_dir"])

    def _watch(self, ranks: Ranks) -> str:
        """Relays until the ranks end (`ok`) or have to be ended. They continue while Redis cannot be reached."""
        self._relay = relay = Relay(self._folder, self._claim)
        self._stall = StallWatch(self._folder, self._settings.stall_s)
        while True:
            running = ranks.poll() is None
            try:
                answer = self._claim.renew()
                if answer in STOPPED:
                    return answer
                while relay.send(to_end=not running):
                    continue
            except RedisError as error:
                logger.warning("Redis does not answer: %r", error)
            else:
                if not running:
                    return "ok"
            if running and self._stall.stalled(relay.stage):
                return "stalled"
            time.sleep(self._settings.poll_s)

    def _conclude(self, status: int | None) -> Ended | None:
        outcome = self._folder.read_outcome()
        if outcome is None:
            return Ended(
                outcome="crashed",
                reason=Reason.CRASHED,
                message=f"The ranks ended with status {status} and did not say why. Look at the end of the log.",
                log_tail=log_tail(self._folder),
            )
        if not outcome["ok"]:
            return Ended(
                outcome="failed",
                reason=Reason(outcome["reason"]),
                message=outcome["message"],
                log_tail=log_tail(self._folder),
            )
        answer = self._claim.finalize()
        if answer == "lost":
            return None
        if answer == "cancel":
            return Ended(outcome="failed", reason=Reason.CANCELLED)
        return self._commit(outcome)

    def _commit(self, outcome: dict[str, object]) -> Ended:
        """Moves the verified folder to its place, in one step."""
        staging = self._job.staging(self._claim.attempt)
        try:
            # A rename onto a folder with files in it fails, so no result is ever replaced.
            staging.rename(self._destination)
        except OSError:
            if not os.path.lexists(self._destination):
                raise
            adopted = self._adopt()
            assert adopted is not None, "the destination exists"
            return adopted
        descriptor = os.open(self._destination.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        return Ended(outcome="succeeded", result=_result(outcome))


def _result(outcome: dict[str, object]) -> JobResult:
    return JobResult.model_validate_json(json.dumps(outcome["result"]))


def _made_by(destination: Path) -> str | None:
    """The id of the job that wrote a result folder. None if no job did."""
    try:
        report = json.loads((destination / "report.json").read_text())
    except (OSError, ValueError):
        return None
    provenance = report.get("provenance") if isinstance(report, dict) else None
    return provenance.get("job_id") if isinstance(provenance, dict) else None

"""One attempt on this node: claim, start the ranks, relay progress, move the result to its place, release."""

from __future__ import annotations

import logging
import time
from contextlib import closing

from redis.exceptions import RedisError

from ladle_contracts import Reason
from ladle_contracts.roots import PathNotAllowed, resolve_inside
from ladle_worker.claim import Claim, Ended
from ladle_worker.commit import Commit, Lost
from ladle_worker.disk_faults import DiskFault, naming_disk_faults
from ladle_worker.job_folder import JobFolder, write_whole
from ladle_worker.last_words import LastWords
from ladle_worker.launch import Ranks
from ladle_worker.leftovers import clear_leftovers
from ladle_worker.relay import Relay, log_tail
from ladle_worker.settings import Settings

logger = logging.getLogger(__name__)

STOPPED = {"cancel", "release", "lost"}


def run_attempt(settings: Settings, job_id: str, attempt: int) -> str:
    """Runs one attempt and returns the job's new state. Raises `NotOurs` if the claim is refused."""
    with closing(Claim(settings, job_id, attempt)) as claim:
        ended = run_claimed(settings, claim)
        state = claim.end(ended) if ended is not None else "lost"
        if state == "lost":
            logger.warning("attempt %s of job %s was lost", attempt, job_id)
        # Also of one that was lost: if the job has ended in the meantime, nothing of it must stay.
        clear_leftovers(settings.results_dir, job_id, claim.fate())
        return state


def run_claimed(settings: Settings, claim: Claim) -> Ended | None:
    """None if the attempt is no longer ours. Raises `RedisError`; everything else ends the attempt with a reason."""
    try:
        return Attempt(settings, claim).run()
    except Lost:
        return None
    except PathNotAllowed as error:
        return Ended(outcome="failed", reason=Reason.PATH_NOT_ALLOWED, message=str(error))
    except DiskFault as fault:
        logger.exception("the agent of job %s failed", claim.job_id)
        outcome = "failed" if fault.is_final else "crashed"
        return Ended(outcome=outcome, reason=fault.reason, message=fault.message)
    except OSError as error:
        logger.exception("the agent of job %s failed", claim.job_id)
        return Ended(outcome="crashed", reason=Reason.CRASHED, message=f"The node agent failed: {error}.")
    except RedisError:
        raise
    except Exception as error:
        # Another attempt would only meet it again, on this node or the next.
        logger.exception("the agent of job %s failed", claim.job_id)
        message = f"The node agent failed with {type(error).__name__}: {error}. This is a mistake in Ladle."
        return Ended(outcome="failed", reason=Reason.INTERNAL_ERROR, message=message)


class Attempt:
    """What happens between a claim and its end."""

    def __init__(self, settings: Settings, claim: Claim) -> None:
        self._settings = settings
        self._claim = claim
        self._job = JobFolder(settings.results_dir, claim.job_id)
        self._folder = self._job.attempt(claim.attempt)
        self._destination = self._job.destination(claim.spec)
        self._commit = Commit(claim, self._job, self._destination, settings.lease_s)

    def run(self) -> Ended:
        """Raises `Lost` if the attempt is no longer ours, `DiskFault` or `PathNotAllowed`."""
        return self._commit.take_over() or self._start()

    def _start(self) -> Ended:
        self._write_job()
        with closing(LastWords()) as last_words:
            ranks = Ranks(
                self._folder,
                self._claim.spec.resources.ranks_per_node,
                self._settings.rank_module,
                working_dir=self._folder.path,
                stdin=last_words.stdin(),
            )
            try:
                answer = self._watch(ranks)
            finally:
                ranks.end(self._settings.kill_grace_s)
            if answer == "lost":
                raise Lost
            if answer == "release":
                return Ended(outcome="released", reason=Reason.NODE_LOST, message="The node is shutting down.")
            if answer == "cancel":
                return Ended(outcome="failed", reason=Reason.CANCELLED)
            return self._conclude(ranks.poll(), last_words)

    def _write_job(self) -> None:
        """Resolves every path inside the roots. The ranks, which open the files, check again whatever they open."""
        spec, roots = self._claim.spec, self._settings.roots
        paths = {
            "ckpt_dir": str(resolve_inside(spec.ckpt_dir, roots, field="ckpt_dir")),
            "val_set": str(resolve_inside(spec.val_set, roots, field="val_set")),
            "train_set": str(resolve_inside(spec.train_set.path, roots, field="train_set.path"))
            if spec.train_set
            else None,
        }
        with naming_disk_faults("make the job's folder"):
            self._job.make(self._claim.attempt)
        job = {
            **paths,
            "roots": [str(root) for root in roots],
            "job_id": self._claim.job_id,
            "attempt": self._claim.attempt,
            "spec": spec.model_dump(mode="json"),
            "staging": str(self._job.staging(self._claim.attempt)),
            "destination": str(self._destination),
            "state": str(self._job.state),
        }
        with naming_disk_faults("write the job's files"):
            write_whole(self._folder.job, job)

    def _watch(self, ranks: Ranks) -> str:
        """Relays until the ranks end (`ok`) or have to be ended. They continue while Redis cannot be reached."""
        relay = Relay(self._folder, self._claim)
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
            time.sleep(self._settings.poll_s)

    def _conclude(self, status: int | None, last_words: LastWords) -> Ended:
        with naming_disk_faults("read the outcome of the ranks"):
            outcome = self._folder.read_outcome() or last_words.read()
        if outcome is None:
            return Ended(
                outcome="crashed",
                reason=Reason.CRASHED,
                message=f"The ranks ended with status {status} and did not say why. Look at the end of the log.",
                log_tail=log_tail(self._folder),
            )
        if not outcome["ok"]:
            return Ended(
                outcome="failed" if outcome.get("final", True) else "crashed",
                reason=Reason(outcome["reason"]),
                message=outcome["message"],
                log_tail=log_tail(self._folder),
            )
        return self._commit.publish(outcome)

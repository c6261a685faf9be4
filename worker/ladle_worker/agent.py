"""One attempt on this node: claims it, lets it run, and tells how it ended, whatever went wrong."""

from __future__ import annotations

import errno
import logging
from collections.abc import Collection
from contextlib import closing

from redis.exceptions import RedisError

from ladle_contracts import Reason, telemetry
from ladle_contracts.logs import bind
from ladle_contracts.roots import PathNotAllowed
from ladle_worker.attempt import Attempt
from ladle_worker.claim import Claim, Ended
from ladle_worker.commit import Lost
from ladle_worker.disk_faults import FULL, DiskFault, disk_fault
from ladle_worker.gang import CannotMeet
from ladle_worker.launch.launcher import CannotLaunch
from ladle_worker.leftovers import clear_leftovers
from ladle_worker.settings import Settings

logger = logging.getLogger(__name__)


def run_attempt(settings: Settings, job_id: str, attempt: int, protections: Collection[str] = (), gpus: int = 0) -> str:
    """Runs one attempt and returns the job's new state. Raises `NotOurs` if the claim is refused.

    `gpus` is how many ranks run here unless the job says otherwise, if there are any.
    """
    with closing(Claim(settings, job_id, attempt)) as claim:
        if claim.request_id:
            bind(request_id=claim.request_id)
        about: telemetry.Attributes = {"ladle.job": job_id, "ladle.attempt": attempt, "ladle.node": settings.node_id}
        with telemetry.span("attempt", about, parent=claim.trace):
            ended = run_claimed(settings, claim, protections, gpus)
            state = claim.end(ended) if ended is not None else "lost"
            telemetry.describe({"ladle.state": state})
        if state == "lost" and claim.speaks:
            logger.warning("attempt %s of job %s was lost", attempt, job_id)
        # Also of one that was lost: if the job has ended in the meantime, nothing of it must stay.
        clear_leftovers(settings, job_id, claim.fate())
        return state


def run_claimed(settings: Settings, claim: Claim, protections: Collection[str] = (), gpus: int = 0) -> Ended | None:
    """None if the attempt is no longer ours, or another node tells how it ended. Raises `RedisError`; everything else
    ends the attempt with a reason."""
    try:
        return Attempt(settings, claim, protections, gpus).run()
    except Lost:
        return None
    except CannotMeet as error:
        return cannot_meet(error)
    except CannotLaunch as error:
        ending = error.ending
        return Ended(outcome=ending.outcome, reason=ending.reason, message=ending.message)
    except PathNotAllowed as error:
        return Ended(outcome="failed", reason=Reason.PATH_NOT_ALLOWED, message=str(error))
    except DiskFault as fault:
        logger.exception("the agent of job %s failed", claim.job_id)
        return _ended_by(fault, settings.node_id if len(claim.nodes) > 1 else None)
    except OSError as error:
        logger.exception("the agent of job %s failed", claim.job_id)
        if error.errno in (*FULL, errno.EROFS):
            return _ended_by(disk_fault(error, "run the job"))
        message = f"The agent of node `{settings.node_id}` failed: {error}."
        return Ended(outcome="node-failed", reason=Reason.CRASHED, message=message)
    except RedisError:
        raise
    except Exception as error:
        # Another attempt would only meet it again, on this node or the next.
        logger.exception("the agent of job %s failed", claim.job_id)
        message = f"The node agent failed with {type(error).__name__}: {error}. This is a mistake in Ladle."
        return Ended(outcome="failed", reason=Reason.INTERNAL_ERROR, message=message)


def cannot_meet(error: CannotMeet) -> Ended:
    """A node without an address or a port is at fault. Files that one lacks the user may have forgotten."""
    nodes = () if error.node is None else (error.node,)
    outcome = "node-failed" if error.node and error.reason is Reason.NODES_CANNOT_MEET else "crashed"
    return Ended(outcome="failed" if error.is_final else outcome, reason=error.reason, message=str(error), nodes=nodes)


def _ended_by(fault: DiskFault, node: str | None = None) -> Ended:
    """`node` is named where others take part."""
    message = fault.message if node is None else f"On node `{node}`: {fault.message}"
    return Ended(outcome="failed" if fault.is_final else "node-failed", reason=fault.reason, message=message)

"""What Slurm's states and reasons mean for an attempt, in words for the user. Nothing here talks to Slurm."""

from __future__ import annotations

from collections.abc import Mapping

from ladle_contracts import Reason
from ladle_worker.launch.launcher import Ending, Status
from ladle_worker.launch.on_node import INTERRUPTED
from ladle_worker.launch.slurm.commands import SlurmJob

WAITS = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
STANDS_STILL = {"SUSPENDED", "STOPPED"}
RUNS = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING"}

PENDING: Mapping[str, str] = {
    "Priority": "jobs of higher priority come first",
    "Resources": "the nodes that it needs are busy",
    "Dependency": "its earlier attempt is still being ended",
    "BeginTime": "Slurm tries it again a little later",
    "JobHeldUser": "it is held; `scontrol release {id}` lets it go",
    "JobHeldAdmin": "an administrator of Slurm holds it",
    "JobHoldMaxRequeue": "Slurm has given up after several tries, and holds it",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs at the moment",
    "PartitionNodeLimit": "it asks for more nodes than the partition has or allows",
    "PartitionTimeLimit": "`LADLE_SLURM_TIME` is longer than the partition allows",
    "PartitionConfig": "it asks for what the partition does not have",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "BadConstraints": "no node has the features of `LADLE_SLURM_CONSTRAINT`",
    "Reservation": "the reservation has not begun",
    "ReservationDeleted": "the reservation is gone",
    "Licenses": "it waits for licences",
    "Cleaning": "its earlier try is being cleaned up",
    "InvalidAccount": "Slurm does not accept the account",
    "InvalidQOS": "Slurm does not accept the QOS",
    "None": "Slurm has not looked at it yet",
    "": "Slurm has not looked at it yet",
}
"""The most frequent reasons. Others are shown as Slurm writes them."""
LIMITS = ("QOS", "Assoc", "MaxCpuPerAccount", "MaxGRESPerAccount", "MaxMemPerLimit", "MaxJobsPer", "MaxNodePerAccount")
"""How reasons begin that are limits of an account or a QOS."""


def why_it_waits(job: SlurmJob) -> str:
    """It follows "the job"."""
    if job.state in STANDS_STILL:
        return f"is suspended by Slurm (its job {job.id})"
    if job.state == "CONFIGURING":
        return f"waits for its nodes to boot (Slurm job {job.id})"
    # `ReqNodeNotAvail, UnavailableNodes:n1`
    reason = job.reason.partition(",")[0].strip()
    known = PENDING.get(reason)
    if known is None and reason.startswith(LIMITS):
        known = "a limit of the account or the QOS is reached"
    words = (known or "Slurm's reason is").format(id=job.id)
    shown = f" ({job.reason})" if job.reason not in ("", "None") else ""
    start = f". Slurm expects it to start at {job.starts_at}" if job.starts_at and known else ""
    return f"is in Slurm's queue as job {job.id}: {words}{shown}{start}"


def status_of(job: SlurmJob, *, is_interrupted: bool, has_gone_on: bool, limit_s: float) -> Status:
    """`is_interrupted`: a machine was asked to end. `has_gone_on`: the attempt has saved something new. `limit_s`: when
    Slurm ends it because its time is over."""
    if job.state in WAITS or job.state in STANDS_STILL:
        return Status(waits_for=why_it_waits(job))
    if job.state in RUNS:
        return Status()
    if job.state == "OUT_OF_MEMORY":
        return Status(is_over=True, code=job.exit_code or 1, out_of_memory=True)
    ending = ending_of(job, is_interrupted=is_interrupted, has_gone_on=has_gone_on, limit_s=limit_s)
    # `srun` ends with the highest status of its tasks; with 128 more than a signal.
    code = job.exit_code or (128 + job.signal if job.signal else 0)
    return Status(is_over=True, code=code or (1 if ending else 0), ending=ending)


def ending_of(job: SlurmJob, *, is_interrupted: bool, has_gone_on: bool, limit_s: float) -> Ending | None:
    where = f"Slurm job {job.id}" + (f" on {job.nodes}" if job.nodes else "")
    match job.state:
        case "TIMEOUT" | "DEADLINE":
            return out_of_time(where, has_gone_on=has_gone_on)
        case "PREEMPTED" | "REVOKED":
            return preempted(where)
        case "NODE_FAIL" | "BOOT_FAIL" | "LAUNCH_FAILED" | "RECONFIG_FAIL":
            message = f"A node failed under {where} ({job.state}{', ' + job.reason if job.reason else ''})."
            return Ending(outcome="node-failed", reason=Reason.NODE_LOST, message=message)
        case "CANCELLED":
            message = f"Somebody has cancelled {where}, with `scancel` or by a rule of Slurm."
            return Ending(outcome="failed", reason=Reason.CANCELLED, message=message)
        case "COMPLETED":
            return None
    if is_interrupted or job.exit_code == INTERRUPTED:
        nearly_over = job.run_time_s >= limit_s
        return out_of_time(where, has_gone_on=has_gone_on) if nearly_over else preempted(where)
    return None


def out_of_time(where: str, *, has_gone_on: bool) -> Ending:
    """Another allocation takes the job further, if this one did."""
    if has_gone_on:
        message = (
            f"The time of {where} was over (`LADLE_SLURM_TIME`). The job goes on from its last saved step in another."
        )
        return Ending(outcome="released", reason=Reason.PREEMPTED, message=message)
    message = f"The time of {where} was over (`LADLE_SLURM_TIME`) before it had saved anything. Set a longer time."
    return Ending(outcome="crashed", reason=Reason.PREEMPTED, message=message)


def preempted(where: str) -> Ending:
    message = f"{where} was asked to end: another job has taken its nodes. The job goes on from its last saved step."
    return Ending(outcome="released", reason=Reason.PREEMPTED, message=message)


def forgotten(job_id: str) -> Ending:
    """Slurm does not know the job any more, and no rank has told of an outcome."""
    message = f"Slurm does not know its job {job_id} any more, and its ranks have not told how they ended."
    return Ending(outcome="crashed", reason=Reason.CRASHED, message=message)

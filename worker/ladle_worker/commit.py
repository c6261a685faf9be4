"""How a job's result becomes visible: whole, once, and not after the job has ended otherwise. See decision 0013."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle_contracts import JobResult, Reason
from ladle_worker.claim import Claim, Ended
from ladle_worker.clock import now
from ladle_worker.disk_faults import naming_disk_faults
from ladle_worker.job_folder import JobFolder, provenance_of
from ladle_worker.well_formed import well_formed

FRESH_SHARE = 0.5
"""Of a lease: an answer of Redis that is older says nothing any more."""


class Lost(Exception):
    """The attempt is no longer this node's: another one may be running, and the files belong to that one."""


class Commit:
    """One attempt's."""

    def __init__(self, claim: Claim, job: JobFolder, destination: Path, lease_s: float) -> None:
        self._claim = claim
        self._job = job
        self._destination = destination
        self._lease_s = lease_s

    def take_over(self) -> Ended | None:
        """Before this attempt starts: what earlier ones left beside the destination is removed, and a result that one
        of them moved there is adopted. None if there is none. Raises `Lost` or `DiskFault`."""
        with naming_disk_faults("remove what an earlier attempt left"):
            self._job.remove_staging()
        return self._existing()

    def publish(self, outcome: Mapping[str, Any]) -> Ended:
        """Moves the verified folder to its place in one step. Raises `Lost`, `DiskFault`, or ValueError for an outcome
        that is none."""
        ended = succeeded(outcome)
        if refused := self._fence():
            return refused
        if not self._move():
            return self._existing() or self._taken()
        self._sync()
        return ended

    def _move(self) -> bool:
        """False if something stands at the destination."""
        with naming_disk_faults("move the result to its place"):
            # Below a lost mount lies another disk: a result there is seen by nobody else.
            self._job.path.stat()
            try:
                # A rename onto a folder with files in it fails, so no result is ever replaced.
                self._job.staging(self._claim.attempt).rename(self._destination)
            except OSError:
                if os.path.lexists(self._destination):
                    return False
                raise
        return True

    def _existing(self) -> Ended | None:
        """What stands at the destination: the result of an earlier attempt of this job, or somebody else's folder."""
        if not os.path.lexists(self._destination):
            return None
        provenance = provenance_of(self._destination)
        if provenance.get("job_id") != self._claim.job_id:
            return self._taken()
        attempt = str(provenance.get("attempt"))
        with naming_disk_faults("read the result of an earlier attempt"):
            outcome = self._outcome_of(attempt, _files_in(self._destination))
        if outcome is None:
            # Nothing says that it is whole, or how good it is, so it is made again.
            if self._claim.renew_patiently() == "lost":
                raise Lost
            with naming_disk_faults("remove the result of an earlier attempt"):
                self._job.withdraw(self._destination, attempt)
            return None
        if refused := self._fence():
            return refused
        # The attempt that moved it may have ended before it came to this.
        self._sync()
        return succeeded(outcome)

    def _outcome_of(self, attempt: str, files: Mapping[str, int]) -> Mapping[str, Any] | None:
        """How the attempt ended that made these files. None if that is unknown, or one of its files is missing."""
        if not attempt.isdecimal() or not self._job.attempt(int(attempt)).path.exists():
            return None
        outcome = self._job.attempt(int(attempt)).read_outcome()
        if outcome is None or not outcome["ok"]:
            return None
        return outcome if files == outcome["result"]["files"] else None

    def _fence(self) -> Ended | None:
        """None as long as no other attempt can begin. Asks again if this process was stopped after the last answer."""
        while True:
            asked_at = now()
            answer = self._claim.finalize()
            if answer == "lost":
                raise Lost
            if answer == "cancel":
                return Ended(outcome="failed", reason=Reason.CANCELLED)
            if now() - asked_at < FRESH_SHARE * self._lease_s:
                return None

    def _taken(self) -> Ended:
        return Ended(
            outcome="failed",
            reason=Reason.OUTPUT_EXISTS,
            message=f"`output.name` must be a new folder, but `{self._destination}` exists. Choose another name.",
        )

    def _sync(self) -> None:
        """The result survives a power cut before anybody is told of it."""
        with naming_disk_faults("move the result to its place"):
            descriptor = os.open(self._destination.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _files_in(folder: Path) -> Mapping[str, int]:
    """Name -> size, as in `JobResult.files`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {well_formed(path.relative_to(folder).as_posix()): path.stat().st_size for path in files}


def succeeded(outcome: Mapping[str, Any]) -> Ended:
    """As the ranks told. Raises ValueError, also for numbers that are none: nobody could read the record."""
    told = json.dumps(outcome["result"], allow_nan=False)
    return Ended(outcome="succeeded", result=JobResult.model_validate_json(told))

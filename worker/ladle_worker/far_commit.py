"""How a job's result becomes visible in a store: uploaded under a marker, and the report last. See decision 0025."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ladle_contracts import Reason
from ladle_worker.claim import Claim, Ended
from ladle_worker.commit import FRESH_SHARE, Commit, Lost, succeeded
from ladle_worker.disk_faults import naming_disk_faults
from ladle_worker.far_answers import ended_by
from ladle_worker.far_output import ResultsHelper
from ladle_worker.job_folder import JobFolder, write_whole

Watch = Callable[[ResultsHelper], Ended | None]
"""Waits for an answer; how the attempt ended where it was interrupted. Raises `Lost`."""


class FarCommit(Commit):
    """One attempt's."""

    def __init__(self, claim: Claim, job: JobFolder, url: str, lease_s: float, watch: Watch) -> None:
        super().__init__(claim, job, job.destination(claim.output), lease_s)
        self._url = url
        self._watch = watch
        self._folder = job.attempt(claim.attempt)

    def publish(self, outcome: Mapping[str, Any]) -> Ended:
        """Uploads the verified folder, and makes it a result once nobody else can. Raises `Lost`, `DiskFault`, or
        ValueError for an outcome that is none."""
        done = succeeded(outcome)
        with naming_disk_faults("write the job's files"):
            # From here on there is something to withdraw, should the job end otherwise.
            write_whole(self._job.far_result, self._url)
        with self._helper() as helper:
            ended = self._asked(helper, "upload")
            if ended is not None:
                is_taken = ended.reason == Reason.OUTPUT_EXISTS
                return (self._whole(helper) or ended) if is_taken else ended
            return self._fence() or self._asked(helper, "publish") or done

    def _existing(self) -> Ended | None:
        # Log and questions of the process that looks are there.
        with naming_disk_faults("make the job's folder"):
            self._job.make(self._claim.attempt)
        with self._helper() as helper:
            return self._whole(helper)

    def _whole(self, helper: ResultsHelper) -> Ended | None:
        """What stands at the address: the result of an earlier attempt of this job, or somebody else's folder."""
        if ended := self._asked(helper, "look"):
            return ended
        found = helper.answer()
        assert found is not None
        if found["free"]:
            return None
        if found["provenance"].get("job_id") != self._claim.job_id:
            return self._taken()
        attempt = str(found["provenance"].get("attempt"))
        with naming_disk_faults("read the result of an earlier attempt"):
            outcome = self._outcome_of(attempt, found["files"])
        if outcome is not None:
            return self._fence() or succeeded(outcome)
        if self._claim.renew_patiently() == "lost":
            raise Lost
        return self._asked(helper, "withdraw", attempt=attempt)

    def _asked(self, helper: ResultsHelper, do: str, **arguments: Any) -> Ended | None:
        """None where it was done. Raises `Lost`."""
        helper.ask(do, **arguments)
        if ended := self._watch(helper):
            return ended
        return ended_by(helper.answer(), "uploads results", self._folder)

    def _taken(self) -> Ended:
        return Ended(
            outcome="failed",
            reason=Reason.OUTPUT_EXISTS,
            message=f"`output.name` must be a new folder, but `{self._url}` exists. Choose another name.",
        )

    @contextmanager
    def _helper(self) -> Iterator[ResultsHelper]:
        request = {
            "url": self._url,
            "job_id": self._claim.job_id,
            "staging": str(self._job.staging(self._claim.attempt)),
            "attempt_folder": str(self._folder.path),
        }
        with naming_disk_faults("write the job's files"), self._folder.log.open("ab") as log:
            helper = ResultsHelper(request, self._folder.path, log)
        with helper:
            yield helper


def share_of_lease(asked_at: float, lease_s: float) -> float:
    """Until when an answer of Redis, asked for at a time, lets this node write."""
    return asked_at + FRESH_SHARE * lease_s

"""The steps of one attempt, between a claim and its end."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from ladle_contracts import Reason
from ladle_contracts.far_urls import parse_url
from ladle_contracts.roots import PathNotAllowed
from ladle_worker.bytes_read import read_by
from ladle_worker.claim import Claim, Ended
from ladle_worker.commit import Commit
from ladle_worker.confinement.plan import MEMORY, Plan
from ladle_worker.disk_faults import naming_disk_faults
from ladle_worker.far_commit import FarCommit
from ladle_worker.far_files import FarFiles
from ladle_worker.far_helper import is_far
from ladle_worker.gang import Gang
from ladle_worker.gathering import Gathering
from ladle_worker.job_folder import JobFolder, write_whole
from ladle_worker.job_request import checkpoint_folders, confinement_of, input_paths
from ladle_worker.launch.choose import launcher_of
from ladle_worker.launch.launcher import Launch, Launcher
from ladle_worker.relay import log_tail
from ladle_worker.settings import Settings
from ladle_worker.silent_ranks import SilentRanks
from ladle_worker.state_copy import StateCopy
from ladle_worker.tracking import Trackers, trackers_of
from ladle_worker.watch import Watch


class Attempt:
    """Takes over what earlier attempts left, makes the job's files, fetches, gathers, launches, watches, concludes."""

    def __init__(self, settings: Settings, claim: Claim, protections: Collection[str] = (), gpus: int = 0) -> None:
        self._settings = settings
        self._protections = protections
        self._claim = claim
        self._job = JobFolder(settings.results_dir, claim.job_id)
        self._folder = self._job.attempt(claim.attempt, claim.node_rank)
        self._mark = f"{claim.job_id}@{settings.node_id}"
        # Only rank 0 writes. The others may not even see its folder.
        self._staging = self._job.staging(claim.attempt) if claim.speaks else self._folder.path / "output"
        self._state_copy = StateCopy(self._job.state, self._job.state_mark, claim, settings.state_copy_s)
        self._watch = Watch(settings, claim, self._folder, self._state_copy)
        self._gathering = Gathering(
            settings=settings,
            claim=claim,
            folder=self._folder,
            watch=self._watch,
            gpus=gpus,
            ranks=claim.spec.resources.ranks_per_node or max(1, gpus),
        )
        self._commit, self._destination = self._make_commit()

    def _make_commit(self) -> tuple[Commit, str]:
        """And where the result will be."""
        claim, settings = self._claim, self._settings
        if settings.results_url is None:
            folder = self._job.destination(claim.output)
            return Commit(claim, self._job, folder, settings.lease_s), str(folder)
        url = str(parse_url(settings.results_url).below(claim.output))
        return FarCommit(claim, self._job, url, settings.lease_s, self._watch.await_answer), url

    def run(self) -> Ended:
        """Raises `Lost` if the attempt is no longer ours, `DiskFault`, `PathNotAllowed`, `CannotMeet` or
        `CannotLaunch`."""
        if not self._claim.speaks:
            return self._start()
        ended = self._commit.take_over() or self._start()
        if ended.outcome != "succeeded":
            with suppress(RedisError):
                self._state_copy.send()
            with suppress(OSError):
                self._job.drop_staging(self._claim.attempt)
        return ended

    def _start(self) -> Ended:
        try:
            inputs = input_paths(self._claim.spec, self._settings)
        except PathNotAllowed as error:
            if len(self._claim.nodes) == 1:
                raise
            return self._gathering.tell_what_is_missing(error)
        self._make_folder()
        job = self._request(inputs)
        return self._fetch_and_run(job) if is_far(job) else self._gather_and_run(job, None)

    def _make_folder(self) -> None:
        with naming_disk_faults("make the job's folder"):
            self._job.make(self._claim.attempt, self._claim.node_rank)
            if self._claim.speaks:
                self._state_copy.restore()

    def _request(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the ranks read as `job.json`."""
        return {
            **inputs,
            "roots": [str(root) for root in self._settings.roots],
            "job_id": self._claim.job_id,
            "mark": self._mark,
            "attempt": self._claim.attempt,
            "spec": self._claim.spec.model_dump(mode="json"),
            "staging": str(self._staging),
            "destination": self._destination,
            "state": str(self._job.state),
            "limit_memory": MEMORY in self._protections,
        }

    def _fetch_and_run(self, job: dict[str, Any]) -> Ended:
        # The process that fetches starts another one, which is confined.
        self._plan().save(self._folder.plan)
        far = FarFiles(self._settings, self._claim, self._folder, self._watch, job)
        try:
            fetched = far.fetch()
            return fetched if isinstance(fetched, Ended) else self._gather_and_run(fetched, far)
        finally:
            far.end()

    def _gather_and_run(self, job: dict[str, Any], far: FarFiles | None) -> Ended:
        if len(self._claim.nodes) == 1:
            return self._run_ranks(job, far, None)
        gang = self._gathering.gang(job)
        if isinstance(gang, Ended):
            return gang
        self._watch.looks_at_disk = True
        return self._run_ranks(job, far, gang)

    def _run_ranks(self, job: dict[str, Any], far: FarFiles | None, gang: Gang | None) -> Ended:
        with naming_disk_faults("write the job's files"):
            write_whole(self._folder.job, job)
        with trackers_of(self._settings, self._claim, self._folder) as trackers:
            self._watch.also_tell(trackers.news)
            ended = self._launch_and_conclude(self._launch(self._plan(job, gang), gang), far, trackers)
            return trackers.finish(ended, self._watch.keep_lease)

    def _launch_and_conclude(self, launch: Launch, far: FarFiles | None, trackers: Trackers) -> Ended:
        launcher = launcher_of(self._settings)
        try:
            launcher.start(launch)
            try:
                answer = self._watch.follow(launcher)
                if answer == "stalled":
                    launcher.logs()
            finally:
                launcher.cancel(self._settings.kill_grace_s, self._watch.keep_lease)
            return self._conclude(launcher, far, trackers) if answer == "ok" else self._watch.ended_by(answer)
        finally:
            launcher.forget()

    def _plan(self, job: dict[str, Any] | None = None, gang: Gang | None = None) -> Plan:
        """The ranks may write what is this attempt's own, and nothing else of the results. Without a job: for the
        process that looks for far files."""
        folder = self._folder.path
        return confinement_of(
            self._settings,
            self._protections,
            inputs=checkpoint_folders(job) if job else (),
            reads=(Path(job["far"]["mirror"]),) if job and "far" in job else (),
            writes=(folder, self._job.state, self._staging) if self._claim.speaks else (folder,),
            gang=gang,
        )

    def _launch(self, plan: Plan, gang: Gang | None) -> Launch:
        resources, dispatches = self._claim.spec.resources, self._settings.dispatches
        ranks = gang.ranks_per_node if gang else self._gathering.ranks
        return Launch(
            folder=self._folder,
            job_id=self._claim.job_id,
            attempt=self._claim.attempt,
            mark=self._mark,
            num_nodes=resources.nodes if dispatches else 1,
            min_nodes=resources.min_nodes if dispatches else None,
            ranks_per_node=resources.ranks_per_node if dispatches else ranks,
            module=self._settings.rank_module,
            plan=plan,
            timeout_s=resources.timeout_s,
            gang=gang,
        )

    def _conclude(self, launcher: Launcher, far: FarFiles | None, trackers: Trackers) -> Ended:
        """How ranks ended that have ended by themselves. Raises `Lost` or `DiskFault`."""
        status = launcher.status()
        with naming_disk_faults("read the outcome of the ranks"):
            outcome = self._folder.read_outcome() or status.said
        self._watch.count_end(read_by(self._staging))
        if outcome is None:
            await_end = self._watch.await_end
            silent = SilentRanks(settings=self._settings, claim=self._claim, folder=self._folder, await_end=await_end)
            return silent.ended(status, launcher)
        if not outcome["ok"]:
            return Ended(
                # What may pass is a disk's, and so the node's.
                outcome="failed" if outcome.get("final", True) else "node-failed",
                reason=Reason(outcome["reason"]),
                message=outcome["message"],
                log_tail=log_tail(self._folder),
            )
        if far is not None and (refused := far.refused_as_changed()):
            return refused
        trackers.keep_report(self._staging)
        return self._commit.publish(outcome)

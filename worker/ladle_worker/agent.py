"""One attempt on this node: claim, start the ranks, relay progress, move the result to its place, release."""

from __future__ import annotations

import errno
import logging
import math
import os
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from ladle_contracts import Reason, Vetting, Warned
from ladle_contracts.far_urls import is_url, parse_url
from ladle_contracts.roots import PathNotAllowed, resolve_anywhere
from ladle_worker.broken_gpu import LAST_WORDS as BROKEN_GPU
from ladle_worker.broken_gpu import LOST_EACH_OTHER, words_of
from ladle_worker.claim import Claim, Ended
from ladle_worker.clock import now
from ladle_worker.commit import Commit, Lost
from ladle_worker.confinement.choose import among_nodes
from ladle_worker.confinement.plan import MEMORY, Plan, devices, readable, writable
from ladle_worker.disk_faults import FULL, DiskFault, disk_fault, naming_disk_faults
from ladle_worker.far_commit import FarCommit, share_of_lease
from ladle_worker.far_helper import FarHelper, far_request, is_far, with_far
from ladle_worker.far_output import ResultsHelper
from ladle_worker.gang import CannotMeet, Gang, Place, check_inputs, gather, place_of
from ladle_worker.inputs_look import LookAtInputs
from ladle_worker.job_folder import JobFolder, write_whole
from ladle_worker.launch.choose import launcher_of
from ladle_worker.launch.launcher import CannotLaunch, Ending, Launch, Launcher, Status
from ladle_worker.leftovers import clear_leftovers
from ladle_worker.memory_kills import NO_MEMORY, about_memory
from ladle_worker.relay import Relay, log_tail
from ladle_worker.settings import Settings
from ladle_worker.stall import StallWatch
from ladle_worker.state_copy import StateCopy
from ladle_worker.time_limit import TimeLimit
from ladle_worker.torchrun import KILLED_STATUSES
from ladle_worker.vetted import Vetter, is_fresh, of_places, remarks

logger = logging.getLogger(__name__)

DISK_S = 2.0
"""How often a node of several sees whether its disk still takes files."""
OTHERS_S = 2.0
"""How much longer than a lease another node may take to say why the ranks of a job have ended."""
HANDS_BACK = "The node hands its jobs back, because it shuts down or is drained."
STOPPED = {"cancel", "release", "lost"}
Helper = FarHelper | ResultsHelper | LookAtInputs | Vetter


def run_attempt(settings: Settings, job_id: str, attempt: int, protections: Collection[str] = (), gpus: int = 0) -> str:
    """Runs one attempt and returns the job's new state. Raises `NotOurs` if the claim is refused.

    `gpus` is how many ranks run here unless the job says otherwise, if there are any.
    """
    with closing(Claim(settings, job_id, attempt)) as claim:
        ended = run_claimed(settings, claim, protections, gpus)
        state = claim.end(ended) if ended is not None else "lost"
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
        return _cannot_meet(error)
    except CannotLaunch as error:
        return _ended_as(error.ending)
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


def _status_of(what: Launcher | Helper) -> Status:
    if isinstance(what, Helper):
        code = what.poll()
        return Status(is_over=code is not None, code=code)
    return what.status()


def _ended_as(ending: Ending, log: Sequence[str] = ()) -> Ended:
    return Ended(outcome=ending.outcome, reason=ending.reason, message=ending.message, log_tail=log)


def _ended_by(fault: DiskFault, node: str | None = None) -> Ended:
    """`node` is named where others take part."""
    message = fault.message if node is None else f"On node `{node}`: {fault.message}"
    return Ended(outcome="failed" if fault.is_final else "node-failed", reason=fault.reason, message=message)


def _cannot_meet(error: CannotMeet) -> Ended:
    """A node without an address or a port is at fault. Files that one lacks the user may have forgotten."""
    nodes = () if error.node is None else (error.node,)
    outcome = "node-failed" if error.node and error.reason is Reason.NODES_CANNOT_MEET else "crashed"
    return Ended(outcome="failed" if error.is_final else outcome, reason=error.reason, message=str(error), nodes=nodes)


class Attempt:
    """What happens between a claim and its end."""

    def __init__(self, settings: Settings, claim: Claim, protections: Collection[str] = (), gpus: int = 0) -> None:
        self._settings = settings
        self._protections = protections
        self._claim = claim
        self._job = JobFolder(settings.results_dir, claim.job_id)
        self._folder = self._job.attempt(claim.attempt, claim.node_rank)
        self._mark = f"{claim.job_id}@{settings.node_id}"
        # Only rank 0 writes. The others may not even see its folder.
        self._staging = self._job.staging(claim.attempt) if claim.speaks else self._folder.path / "output"
        self._gang: Gang | None = None
        self._gpus = gpus
        self._vetting: Vetting | None = None
        self._ranks = claim.spec.resources.ranks_per_node or max(1, gpus)
        self._commit, self._destination = self._make_commit()
        self._relay = Relay(self._folder, claim)
        self._renewed_at = 0.0
        self._disk_seen_at = 0.0
        self._state_copy = StateCopy(self._job.state, self._job.state_mark, claim, settings.state_copy_s)
        self._limit = TimeLimit(claim.spec.resources.timeout_s, claim.ran_s)

    def _make_commit(self) -> tuple[Commit, str]:
        """And where the result will be."""
        claim, settings = self._claim, self._settings
        if settings.results_url is None:
            folder = self._job.destination(claim.output)
            return Commit(claim, self._job, folder, settings.lease_s), str(folder)
        url = str(parse_url(settings.results_url).below(claim.output))
        return FarCommit(claim, self._job, url, settings.lease_s, self._watch_store), url

    def _watch_store(self, helper: ResultsHelper) -> Ended | None:
        """None once there is an answer. Raises `Lost`."""
        answer = self._watch(helper)
        return None if answer == "ok" else self._interrupted(answer)

    def run(self) -> Ended:
        """Raises `Lost` if the attempt is no longer ours, `DiskFault` or `PathNotAllowed`."""
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
            job = self._make_job()
        except PathNotAllowed as error:
            if len(self._claim.nodes) == 1:
                raise
            return self._tell_what_is_missing(error)
        if not is_far(job):
            return self._run_ranks(job, None)
        self._plan((), ()).save(self._folder.plan)
        helper = FarHelper(self._folder, far_request(job, self._settings))
        self._note_fetching(begins=True)
        try:
            answer = self._watch(helper)
            self._note_fetching(begins=False)
            if answer != "ok":
                return self._interrupted(answer)
            found = helper.answer()
            if found is None or not found["ok"]:
                return self._failed_far(found)
            return self._run_ranks(with_far(job, found), helper)
        finally:
            helper.end(self._settings.kill_grace_s, self._keep_lease)

    def _run_ranks(self, job: dict[str, Any], far: FarHelper | None) -> Ended:
        if len(self._claim.nodes) > 1 and (interrupted := self._look_and_gather(job)):
            return interrupted
        with naming_disk_faults("write the job's files"):
            write_whole(self._folder.job, job)
        more = () if far is None else (Path(job["far"]["mirror"]),)
        plan = self._plan((job["ckpt_dir"],) if isinstance(job["ckpt_dir"], str) else tuple(job["ckpt_dir"]), more)
        launcher = launcher_of(self._settings)
        try:
            launcher.start(self._launch(plan))
            try:
                answer = self._watch(launcher)
                if answer == "stalled":
                    launcher.logs()
            finally:
                launcher.cancel(self._settings.kill_grace_s, self._keep_lease)
            if answer != "ok":
                return self._interrupted(answer)
            return self._conclude(launcher, far)
        finally:
            launcher.forget()

    def _note_fetching(self, *, begins: bool) -> None:
        if len(self._claim.nodes) > 1:
            with suppress(RedisError):
                self._claim.note_fetching(begins=begins)

    def _launch(self, plan: Plan) -> Launch:
        resources, dispatches = self._claim.spec.resources, self._settings.dispatches
        return Launch(
            folder=self._folder,
            job_id=self._claim.job_id,
            attempt=self._claim.attempt,
            mark=self._mark,
            num_nodes=resources.nodes if dispatches else 1,
            min_nodes=resources.min_nodes if dispatches else None,
            ranks_per_node=resources.ranks_per_node if dispatches else self._ranks,
            module=self._settings.rank_module,
            plan=plan,
            gang=self._gang,
        )

    def _look_and_gather(self, job: Mapping[str, Any]) -> Ended | None:
        """Looks at this node and at the inputs, tells the other nodes, and waits for them. Raises as `_gather`."""
        with suppress(RedisError, ValueError):
            self._vetting = self._claim.last_vetting()
        vetter = None if is_fresh(self._vetting) else self._vetter(job)
        look = LookAtInputs(self._folder, job, self._claim.spec)
        try:
            answer = self._watch(look)
            if answer == "ok" and vetter is not None:
                answer = self._watch(vetter)
                self._note_vetting(vetter.answer())
        finally:
            for process in (look, vetter):
                if process is not None:
                    process.end(self._keep_lease)
        if answer != "ok":
            return self._interrupted(answer)
        return self._unfit() or self._gather(look.answer())

    def _vetter(self, job: Mapping[str, Any]) -> Vetter:
        path = job["ckpt_dir"] if isinstance(job["ckpt_dir"], str) else job["ckpt_dir"][0]
        return Vetter(
            self._folder.path,
            gpus=self._gpus,
            ranks=self._ranks,
            roots=job["roots"],
            path=None if is_url(path) else path,
        )

    def _note_vetting(self, vetting: Vetting) -> None:
        self._vetting = vetting
        with suppress(RedisError):
            self._claim.note_vetting(vetting)

    def _unfit(self) -> Ended | None:
        """None if this node can run the job."""
        if self._vetting is None or self._vetting.problem is None:
            return None
        message = f"Node `{self._settings.node_id}` cannot run the job: {self._vetting.problem}"
        return Ended(outcome="node-failed", reason=Reason.NODE_UNFIT, message=message)

    def _remark(self, places: Sequence[Place]) -> None:
        """Warns of nodes that are slower than the others. The events of rank 0 follow."""
        if self._claim.speaks:
            with naming_disk_faults("write the job's events"), self._folder.events.open("a") as events:
                for message in remarks(of_places({place.node: place.vetting for place in places})):
                    events.write(Warned(message=message).model_dump_json() + "\n")

    def _tell_what_is_missing(self, error: PathNotAllowed) -> Ended:
        """Raises `CannotMeet`, which names this node, or `Lost`."""
        interrupted = self._gather({}, str(error))
        assert interrupted is not None, "nodes that do not see the inputs cannot meet"
        return interrupted

    def _gather(self, seen: Mapping[str, Any], refused: str = "") -> Ended | None:
        """Waits until all nodes of the attempt are ready. Raises `Lost` or `CannotMeet`."""
        found = self._vetting.model_dump(mode="json") if self._vetting is not None else {}
        place = replace(place_of(self._settings, self._ranks, seen, refused), vetting=found).to_json()
        waits_since = time.monotonic()
        while True:
            try:
                answer, others = self._claim.meet(place)
            except RedisError as error:
                logger.warning("Redis does not answer: %r", error)
                # Nobody can say that it is ready.
                waits_since = time.monotonic()
            else:
                if answer in STOPPED:
                    return self._interrupted(answer)
                if self._out_of_time():
                    return self._interrupted("timed-out")
                if answer == "ok":
                    places = [Place.of_json(other) for other in others]
                    self._gang = gather(places, self._claim.node_rank)
                    check_inputs(places, self._claim.spec)
                    self._ranks = self._gang.ranks_per_node
                    self._remark(places)
                    return None
                if not others:
                    waits_since = time.monotonic()
                elif time.monotonic() - waits_since > self._settings.ready_s:
                    return self._late(others)
            time.sleep(self._settings.poll_s)

    def _late(self, nodes: Sequence[str]) -> Ended:
        names = ", ".join(f"`{node}`" for node in nodes)
        return Ended(
            outcome="node-failed",
            reason=Reason.NODE_LOST,
            message=f"All nodes of a job must be ready within {self._settings.ready_s:g} s, but {names} "
            f"{'was' if len(nodes) == 1 else 'were'} not. `LADLE_READY_S` sets the limit.",
            nodes=nodes,
        )

    def _await_end(self, at_most_s: float = math.inf) -> Ended | None:
        """Holds the lease while another node has the word. Raises `Lost` once that one has told how the attempt ended.

        None after `at_most_s` without a word.
        """
        until = time.monotonic() + at_most_s
        while time.monotonic() < until:
            try:
                answer = self._claim.renew()
            except RedisError as error:
                logger.warning("Redis does not answer: %r", error)
            else:
                if answer in STOPPED:
                    return self._interrupted(answer)
            time.sleep(self._settings.poll_s)
        return None

    def _interrupted(self, answer: str) -> Ended:
        """Raises `Lost`."""
        if answer == "lost":
            raise Lost
        if answer == "release":
            return Ended(outcome="released", reason=Reason.NODE_LOST, message=HANDS_BACK)
        if answer == "cancel":
            return Ended(outcome="failed", reason=Reason.CANCELLED)
        return self._timed_out() if answer == "timed-out" else self._stalled()

    def _failed_far(self, found: Mapping[str, Any] | None) -> Ended:
        if found is None:
            return Ended(
                outcome="crashed",
                reason=Reason.CRASHED,
                message="The process that fetches far files did not say why it ended. Look at the end of the log.",
                log_tail=log_tail(self._folder),
            )
        return Ended(
            outcome="failed" if found["final"] else "crashed",
            reason=Reason(found["reason"]),
            message=found["message"],
            log_tail=log_tail(self._folder),
        )

    def _refused_as_changed(self, far: FarHelper) -> Ended | None:
        """None where the far files are still what they were. Raises `Lost`."""
        far.ask_whether_changed()
        answer = self._watch(far)
        if answer != "ok":
            return self._interrupted(answer)
        found = far.answer()
        return None if found is not None and found["ok"] else self._failed_far(found)

    def _keep_lease(self) -> None:
        """While what hangs is being ended, which takes its time. Whether the attempt is still ours is asked later."""
        if time.monotonic() - self._renewed_at >= self._settings.poll_s:
            self._renewed_at = time.monotonic()
            with suppress(RedisError):
                self._claim.renew()

    def _out_of_time(self) -> bool:
        """Only the first node says so, and all others end with it."""
        return self._claim.speaks and self._limit.is_over()

    def _timed_out(self) -> Ended:
        self._relay_the_rest()
        return replace(self._limit.ended(self._relay.stage), log_tail=log_tail(self._folder))

    def _relay_the_rest(self) -> None:
        """Where the ranks stood."""
        with suppress(RedisError, DiskFault):
            self._relay_news(to_end=True)

    def _stalled(self) -> Ended:
        stage, limit_s = self._relay.stage, self._stall.limit_s(self._relay.stage)
        self._relay_the_rest()
        return Ended(
            outcome="crashed",
            reason=Reason.STALLED,
            message=f"A job must make progress, but in stage `{stage or 'start'}` nothing moved for {limit_s:g} s. A "
            "disk may hang, or a task. The end of the log says where each rank was. The limit is `LADLE_STALL_S`.",
            log_tail=log_tail(self._folder),
        )

    def _plan(self, inputs: tuple[str, ...], more: Collection[Path]) -> Plan:
        """How the ranks are confined. They may write what is this attempt's own, and nothing else of the results."""
        settings = self._settings
        folders = (self._folder.path, *((self._job.state, self._staging) if self._claim.speaks else ()))
        redis = settings.redis_socket
        secrets = [path for path in (settings.redis_password_file, redis) if path is not None]
        return Plan(
            agent=os.getpid(),
            protections=among_nodes(self._protections) if self._gang else tuple(self._protections),
            inputs=inputs,
            outputs=str(settings.results_dir),
            read=readable((*settings.roots, *more), settings.rank_read, secrets),
            write=writable(folders, settings.rank_write),
            devices=devices(),
            hidden=(str(redis),) if redis is not None else (),
            ports=(self._gang.head.port,) if self._gang else (),
        )

    def _make_job(self) -> dict[str, Any]:
        """Resolves every path inside the roots. The ranks, which open the files, check again whatever they open."""
        spec, settings = self._claim.spec, self._settings
        base_model = spec.adapters.base_model

        def resolved(field: str, path: str, *, may_be_glob: bool = False) -> str:
            return resolve_anywhere(path, settings.roots, settings.far_roots, field=field, may_be_glob=may_be_glob)

        paths = {
            "ckpt_dir": spec.with_ckpt_dirs(lambda field, path: resolved(field, path, may_be_glob=True)),
            "val_set": spec.with_val_sets(resolved),
            "base_model": resolved("adapters.base_model", base_model) if base_model else None,
            "train_set": resolved("train_set.path", spec.train_set.path) if spec.train_set else None,
        }
        with naming_disk_faults("make the job's folder"):
            self._job.make(self._claim.attempt, self._claim.node_rank)
            if self._claim.speaks:
                self._state_copy.restore()
        return {
            **paths,
            "roots": [str(root) for root in settings.roots],
            "job_id": self._claim.job_id,
            "mark": self._mark,
            "attempt": self._claim.attempt,
            "spec": spec.model_dump(mode="json"),
            "staging": str(self._staging),
            "destination": self._destination,
            "state": str(self._job.state),
            "limit_memory": MEMORY in self._protections,
        }

    def _watch(self, ranks: Launcher | Helper) -> str:
        """Relays until the ranks end (`ok`) or have to be ended. They continue while Redis cannot be reached."""
        self._stall = StallWatch(self._folder, self._settings.stall_s)
        looked_at = time.monotonic()
        while True:
            status = _status_of(ranks)
            running = not status.is_over
            self._renewed_at = time.monotonic()
            asked_at = now()
            try:
                answer = self._claim.renew(status.waits_for)
                if answer in STOPPED:
                    return answer
                if isinstance(ranks, ResultsHelper):
                    ranks.may_write_until(share_of_lease(asked_at, self._settings.lease_s))
                self._relay_news(to_end=not running)
                self._look_at_disk()
            except RedisError as error:
                logger.warning("Redis does not answer: %r", error)
            else:
                if not running:
                    return "ok"
            if status.waits_for:
                # Nothing moves until the ranks run, and no time is used up.
                self._stall = StallWatch(self._folder, self._settings.stall_s)
                self._limit.put_off(time.monotonic() - looked_at)
            elif running and self._stall.stalled(self._relay.stage):
                return "stalled"
            # A result that is being uploaded is complete.
            if running and self._out_of_time() and not isinstance(ranks, ResultsHelper):
                return "timed-out"
            looked_at = time.monotonic()
            time.sleep(self._settings.poll_s)

    def _look_at_disk(self) -> None:
        """Of several nodes most write little, and would not notice that their disk has gone. Raises `DiskFault`."""
        if self._gang is not None and time.monotonic() - self._disk_seen_at >= DISK_S:
            self._disk_seen_at = time.monotonic()
            with naming_disk_faults("write the job's files"):
                self._folder.try_writing()

    def _relay_news(self, *, to_end: bool) -> None:
        """All that is new. Only the node of rank 0 has something to tell. Raises `RedisError` or `DiskFault`."""
        if self._claim.speaks:
            while self._relay.send(to_end=to_end):
                continue
            self._state_copy.send_if_due()

    def _conclude(self, launcher: Launcher, far: FarHelper | None) -> Ended:
        status = launcher.status()
        with naming_disk_faults("read the outcome of the ranks"):
            outcome = self._folder.read_outcome() or status.said
        if outcome is None:
            return self._without_outcome(status, launcher)
        if not outcome["ok"]:
            return Ended(
                # What may pass is a disk's, and so the node's.
                outcome="failed" if outcome.get("final", True) else "node-failed",
                reason=Reason(outcome["reason"]),
                message=outcome["message"],
                log_tail=log_tail(self._folder),
            )
        if far is not None and (refused := self._refused_as_changed(far)):
            return refused
        return self._commit.publish(outcome)

    def _without_outcome(self, status: Status, launcher: Launcher) -> Ended:
        """Ranks that ended without a word. Raises `Lost` or `DiskFault`."""
        if status.code == 0 and not self._claim.speaks:
            # Rank 0 still writes the result.
            ended = self._await_end()
            assert ended is not None, "it has no limit"
            return ended
        if status.ending is not None:
            return _ended_as(status.ending, launcher.logs())
        if status.out_of_memory or (status.code and about_memory(log_tail(self._folder))):
            # Another attempt would need as much.
            return Ended(
                outcome="failed",
                reason=Reason.OUT_OF_MEMORY,
                message=NO_MEMORY,
                log_tail=log_tail(self._folder),
            )
        with naming_disk_faults("write the job's files"):
            self._folder.try_writing()
        log = launcher.logs()
        if fault := words_of(BROKEN_GPU, log):
            message = f"A GPU of node `{self._settings.node_id}` does not work: {fault}"
            return Ended(outcome="node-failed", reason=Reason.NODE_UNFIT, message=message, log_tail=log)
        if self._gang and status.code not in KILLED_STATUSES:
            return self._left_by_others(log) or self._crashed(status, log)
        return self._crashed(status, log)

    def _left_by_others(self, log: Sequence[str]) -> Ended | None:
        """Ranks also end because those of another node have, which knows why. If it is gone, its lease ends first.

        None if no other node says anything. Raises `Lost`.
        """
        lost = words_of(LOST_EACH_OTHER, log)
        # Where a rank died of itself, that node speaks before those that only miss it.
        ended = self._await_end(self._settings.lease_s + (2 * OTHERS_S if lost else OTHERS_S))
        if ended is not None or lost is None:
            return ended
        names = ", ".join(f"`{node}`" for node in self._claim.nodes)
        message = f"The ranks of {names} lost each other, though all nodes live. Look at their network: {lost}"
        return Ended(outcome="node-failed", reason=Reason.NODES_CANNOT_MEET, message=message, log_tail=log, nodes=())

    def _crashed(self, status: Status, log: Sequence[str]) -> Ended:
        return Ended(
            outcome="crashed",
            reason=Reason.CRASHED,
            message=f"The ranks ended with status {status.code} and did not say why. Look at the end of the log.",
            log_tail=log,
        )

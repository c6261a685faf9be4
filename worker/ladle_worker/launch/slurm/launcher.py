"""The launcher that runs the ranks of an attempt as one job of Slurm.

A thread of its own talks to Slurm, so that a controller that is slow or away never keeps the agent from its lease.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ladle_worker.launch.launcher import CannotLaunch, Ending, Launch, Status
from ladle_worker.launch.slurm import commands
from ladle_worker.launch.slurm.commands import SlurmAway, SlurmJob, SlurmRefused, jobs_of_ladle, look, name_of
from ladle_worker.launch.slurm.settings import SlurmSettings
from ladle_worker.launch.slurm.states import RUNS, forgotten, status_of
from ladle_worker.launch.slurm.submit import minutes_of, parameters, submit
from ladle_worker.relay import log_tail
from ladle_worker.settings import Settings
from ladle_worker.tree import Meanwhile, nothing

logger = logging.getLogger(__name__)

STEP_S = 0.2
CANCEL_S = 60.0
"""How long a cancel tries to reach Slurm. What it could not end is found later, by its name."""
LEAVE_S = 2.0
"""How long it then waits for the end. The next attempt begins after it in any case: Slurm sees to that."""
WHERE_S = 1.0
ASK_AGAIN_S = 15.0
"""How often what Slurm refuses for now is asked again."""
TAIL_LINES = 40


class Slurm:
    """The job of one attempt."""

    def __init__(self, settings: Settings, slurm: SlurmSettings) -> None:
        self._results = settings.results_dir
        self._slurm = slurm
        self._status = Status(waits_for="is being handed over to Slurm")
        self._id: str | None = None
        self._runs = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, launch: Launch) -> None:
        """Raises `CannotLaunch` where the job goes beyond the operator's limits."""
        self._launch = launch
        self._check("resources.nodes", launch.num_nodes, self._slurm.max_nodes, "LADLE_SLURM_MAX_NODES")
        if self._slurm.gpus_per_node:
            ranks = launch.ranks_per_node or 1
            self._check("resources.ranks_per_node", ranks, self._slurm.gpus_per_node, "LADLE_SLURM_GPUS_PER_NODE")
        self._name = name_of(self._results, launch.job_id, launch.attempt)
        self._minutes = minutes_of(self._slurm, launch.timeout_s)
        self._saved = _newest(launch.folder.path.parent / "state")
        self._thread = threading.Thread(target=self._run, name=f"ladle-slurm-{launch.job_id}", daemon=True)
        self._thread.start()

    def status(self) -> Status:
        return self._status

    def logs(self) -> Sequence[str]:
        if self._id is not None and self._runs and not self._status.is_over:
            with suppress(SlurmAway, SlurmRefused):
                commands.ask("scancel", "--signal=USR1", self._id)
                time.sleep(WHERE_S)
        return log_tail(self._launch.folder) or self._printed()

    def cancel(self, grace_s: float, meanwhile: Meanwhile = nothing) -> None:
        """The machines end their ranks with the grace of `LADLE_KILL_GRACE_S`, and Slurm with that of `KillWait`."""
        self._stopping.set()
        deadline = time.monotonic() + CANCEL_S
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(STEP_S)
            meanwhile()
        while not self._status.is_over:
            try:
                self._end(meanwhile)
                return
            except SlurmAway as error:
                logger.warning("the Slurm job of job %s cannot be ended yet: %s", self._launch.job_id, error)
            except SlurmRefused as error:
                logger.error("the Slurm job of job %s cannot be ended: %s", self._launch.job_id, error)
                return
            if time.monotonic() > deadline:
                return
            meanwhile()
            time.sleep(STEP_S)

    def forget(self) -> None:
        """Slurm forgets by itself, and all files are in the attempt's folder."""

    def _check(self, field: str, value: int, most: int, setting: str) -> None:
        if value > most:
            message = f"`{field}` must be at most {most} on this Slurm (`{setting}`), but is {value}."
            raise CannotLaunch(Ending.refused(message))

    def _run(self) -> None:
        while not self._status.is_over and not self._stopping.is_set():
            pause_s = self._slurm.poll_s
            try:
                self._status = self._step()
            except SlurmAway as error:
                # Ranks that run do so without its controller.
                if not self._runs:
                    self._status = Status(waits_for=f"needs Slurm, which does not answer: {error}")
            except SlurmRefused as error:
                self._status, pause_s = self._refused(error), ASK_AGAIN_S
            except Exception as error:
                logger.exception("the Slurm job of job %s cannot be watched", self._launch.job_id)
                self._status = Status(is_over=True, ending=Ending.of_mistake(error))
            self._stopping.wait(min(pause_s, 1.0) if self._launch.folder.outcome.exists() else pause_s)

    def _step(self) -> Status:
        if self._id is None:
            self._id = self._begin()
        job = look(self._id)
        if job is None:
            return Status(is_over=True, ending=forgotten(self._id))
        self._runs = job.state in RUNS
        return status_of(
            job,
            is_interrupted=self._launch.folder.interrupted.exists(),
            has_gone_on=_newest(self._launch.folder.path.parent / "state") > self._saved,
            # Slurm signals up to a minute early.
            limit_s=self._minutes * 60 - self._slurm.signal_s - 60,
        )

    def _begin(self) -> str:
        """The id of the attempt's job. An earlier call may have made it, although its answer was lost."""
        earlier = []
        for job_id, attempt in jobs_of_ladle(self._results):
            if attempt.job_id == self._launch.job_id:
                if attempt.number == self._launch.attempt:
                    return job_id
                earlier.append(job_id)
        commands.cancel(earlier)
        launch = self._launch
        wanted = parameters(
            self._slurm,
            nodes=launch.num_nodes,
            min_nodes=launch.min_nodes,
            ranks=launch.ranks_per_node,
            minutes=self._minutes,
            after=earlier,
        )
        return submit(launch, self._slurm, self._name, wanted)

    def _refused(self, error: SlurmRefused) -> Status:
        if self._id is None and commands.FOR_NOW.search(str(error)):
            return Status(waits_for=f"is refused by Slurm for now: {error}")
        if self._id is not None:
            # Of its state, not of the job.
            logger.warning("Slurm does not tell the state of its job %s: %s", self._id, error)
            return self._status
        return Status(is_over=True, ending=Ending.refused(f"Slurm refuses the job: {error}."))

    def _end(self, meanwhile: Meanwhile) -> None:
        """Raises `SlurmAway` or `SlurmRefused`."""
        mine = [self._id] if self._id else self._found()
        commands.cancel(mine)
        until = time.monotonic() + LEAVE_S
        while any(_is_there(look(each)) for each in mine) and time.monotonic() < until:
            meanwhile()
            time.sleep(STEP_S)

    def _found(self) -> list[str]:
        """That of an answer which never came."""
        own = (self._launch.job_id, self._launch.attempt)
        return [each for each, attempt in jobs_of_ladle(self._results) if (attempt.job_id, attempt.number) == own]

    def _printed(self) -> list[str]:
        """What Slurm and the tasks have printed, where no rank has come to printing."""
        lines: list[str] = []
        for path in sorted((self._launch.folder.path / "slurm").glob("*_log.out")):
            with suppress(OSError):
                lines += path.read_text(errors="replace").splitlines()
        return lines[-TAIL_LINES:]


def _is_there(job: SlurmJob | None) -> bool:
    return job is not None and not status_of(job, is_interrupted=False, has_gone_on=False, limit_s=0).is_over


def _newest(folder: Path) -> int:
    """When something in it was last written."""
    try:
        return max((path.stat().st_mtime_ns for path in folder.iterdir()), default=0)
    except OSError:
        return 0

"""The agent's side of trackers: a process for each, which may fail or hang without harm to the job: decision 0037."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ladle_contracts import JobSpec, Warned
from ladle_contracts.processes import end_with_parent
from ladle_contracts.spec_fields import SPEC_FIELDS, value_of
from ladle_worker.claim import Claim, Ended
from ladle_worker.far_helper import helper_environment
from ladle_worker.job_folder import AttemptFolder, read_plain_file
from ladle_worker.settings import Settings

logger = logging.getLogger(__name__)

TRACK_MODULE = "ladle_worker.track"
FILES = ("report.html", "report.json", "coefficients.json")
POLL_S = 0.05
QUICKLY_S = 2.0
"""How long trackers get where somebody waits for the end: a job that was cancelled."""
WAIT_S = 5.0
MOST_CHARS = 4000
LONGEST_VALUE = 300
"""Of a setting: all of them go through a pipe at once."""


class TrackerProcess:
    """One tracker of one attempt. It never outlives this process."""

    def __init__(self, name: str, run: Mapping[str, Any], events: Path, home: Path) -> None:
        """`run` is a `ladle_trackers.Run`. It goes over a pipe, because ranks can write to the attempt's folder."""
        self.name = name
        self._log = home / f"{name}.txt"
        self._problem: str | None = None
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", TRACK_MODULE, str(events), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=home,
                env=helper_environment(),
                start_new_session=True,
                preexec_fn=end_with_parent(signal.SIGKILL),
            )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self.say(run)

    def say(self, word: Mapping[str, Any]) -> None:
        """What the run is, and at the end how the attempt has ended."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(json.dumps(word).encode() + b"\n")
            self._process.stdin.flush()

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def problem(self) -> str | None:
        """What it has failed with, if it has."""
        assert self._process.stdout is not None
        if self._problem is None and (line := self._process.stdout.readline()):
            self._problem = str(json.loads(line)["problem"])
        code = self._process.poll()
        if self._problem is None and code not in (None, 0):
            self._problem = f"The tracker `{self.name}` was told nothing more: its process ended with status {code}."
        return self._problem

    def last_lines(self) -> str:
        """What its library has printed, for the operator."""
        with suppress(OSError):
            return self._log.read_text(errors="replace")[-MOST_CHARS:]
        return ""

    def end(self) -> None:
        """With all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(WAIT_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class Trackers:
    """Those of one attempt. No method raises because of them."""

    def __init__(
        self, processes: Sequence[TrackerProcess], kept: Path, wait_s: float, not_begun: Mapping[str, str] | None = None
    ) -> None:
        """`not_begun` has those that could not be started, and why."""
        self._processes = processes
        self._not_begun = not_begun or {}
        self._kept = kept
        self._wait_s = wait_s
        self._told: set[str] = set()
        self._has_report = False

    def news(self) -> list[Warned]:
        """What has failed since the last time."""
        found = {**self._not_begun, **{each.name: each.problem() for each in self._processes}}
        problems = {name: told for name, told in found.items() if told is not None and name not in self._told}
        self._told |= problems.keys()
        for each in self._processes:
            if each.name in problems:
                logger.warning("%s\n%s", problems[each.name], each.last_lines())
        return [Warned(message=problem) for problem in problems.values()]

    def keep_report(self, result: Path) -> None:
        """What trackers are told of a result, before it is moved or uploaded. Ranks wrote it: no link is followed."""
        if not self._processes:
            return
        for name in FILES:
            with suppress(OSError, ValueError):
                (self._kept / name).write_bytes(read_plain_file(result / name))
                self._has_report = True

    def finish(self, ended: Ended, meanwhile: Callable[[], None]) -> Ended:
        """Waits until they have taken all, but not for long. The same end, with what went wrong as warnings."""
        ok = ended.outcome == "succeeded"
        word = {"ok": ok, "result": str(self._kept) if ok and self._has_report else None}
        for each in self._processes:
            each.say(word)
        until = time.monotonic() + self._patience(ended)
        while time.monotonic() < until and not all(each.is_over for each in self._processes):
            meanwhile()
            time.sleep(POLL_S)
        late = [each.name for each in self._processes if not each.is_over and each.name not in self._told]
        self.news()
        warnings = [*self._not_begun.values()]
        warnings += [problem for each in self._processes if (problem := each.problem()) is not None]
        if ok:
            warnings += [
                f"The tracker `{name}` has not taken everything in {self._wait_s:g} s, and was told no more."
                for name in late
            ]
        if ended.result is None or not warnings:
            return ended
        return replace(ended, result=ended.result.model_copy(update={"warnings": (*ended.result.warnings, *warnings)}))

    def _patience(self, ended: Ended) -> float:
        if ended.outcome == "released":
            return 0.0
        return min(QUICKLY_S, self._wait_s) if ended.outcome == "failed" else self._wait_s


@contextmanager
def trackers_of(settings: Settings, claim: Claim, folder: AttemptFolder) -> Iterator[Trackers]:
    """Starts those of the job and of the operator. They end with the block."""
    names = dict.fromkeys((*settings.trackers, *claim.spec.tracking.trackers)) if claim.speaks else {}
    with ExitStack() as stack:
        kept = folder.path
        processes: list[TrackerProcess] = []
        not_begun: dict[str, str] = {}
        for name in names:
            try:
                if not processes:
                    kept = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ladle-tracking-")))
                process = TrackerProcess(name, run_of(settings, claim), folder.events, kept)
            except (OSError, subprocess.SubprocessError) as error:
                # The disk may be full, or the machine have no memory for another process.
                not_begun[name] = f"The tracker `{name}` was told nothing, because it could not be started: {error}."
                continue
            stack.callback(process.end)
            processes.append(process)
        yield Trackers(processes, kept, settings.tracker_wait_s, not_begun)


def run_of(settings: Settings, claim: Claim) -> dict[str, Any]:
    """A `ladle_trackers.Run`, as JSON. A job says no more than names: not where to, and with no secret."""
    return {
        "project": claim.spec.tracking.project,
        "name": run_name(claim.spec.tracking.run, claim.output, claim.job_id),
        "id": claim.job_id,
        "folder": str(settings.trackers_folder),
        "settings": settings_of(claim.spec),
        "tags": [f"{name}={value}" for name, value in claim.spec.labels.items()],
    }


def run_name(asked: str | None, output: str, job_id: str) -> str:
    """Of two jobs that ask for the same name, each has its own."""
    name = asked or output
    return name if job_id[:10] in name else f"{name}-{job_id[:10]}"


def settings_of(spec: JobSpec) -> dict[str, str | int | float | bool]:
    """What was asked for, without what holds by default."""
    found: dict[str, str | int | float | bool] = {}
    for field in SPEC_FIELDS:
        value = value_of(spec, field)
        if field.path == "webhooks" or (value == field.default and not field.required):
            continue
        plain = value if isinstance(value, str | int | float | bool) else json.dumps(value, default=list)
        found[field.path] = plain[:LONGEST_VALUE] if isinstance(plain, str) else plain
    return found

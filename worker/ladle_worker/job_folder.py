"""The files through which a node agent and its ranks communicate: docs/architecture.md, "The job folder"."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle_worker.last_words import say
from ladle_worker.well_formed import well_formed

JOBS_FOLDER = ".ladle"
JOB_ID = re.compile(r"[A-Za-z0-9-]+")
"""Other names in the folder of jobs are not ours."""
MAX_REPORT_BYTES = 1 << 30
TRIED_CHARS = 1 << 16


@dataclass(frozen=True)
class JobFolder:
    """`<results>/.ladle/<job id>/`, and the job's folders beside its destination."""

    results_dir: Path
    job_id: str

    @property
    def path(self) -> Path:
        return self.results_dir / JOBS_FOLDER / self.job_id

    @property
    def far_result(self) -> Path:
        """The address of a result that may have been uploaded, wholly or in part."""
        return self.path / "far-result.json"

    @property
    def state(self) -> Path:
        """The engine's resume state, which later attempts use."""
        return self.path / "state"

    @property
    def state_mark(self) -> Path:
        """Holds the number of the last attempt that used the state here."""
        return self.path / "state-attempt"

    def attempt(self, number: int, node_rank: int = 0) -> AttemptFolder:
        """That of one node. Several nodes may share the disk."""
        return AttemptFolder(self.path / f"attempt-{number}").of_machine(node_rank)

    def staging(self, attempt: int) -> Path:
        """Where rank 0 writes the model, next to its destination."""
        return self.results_dir / f".ladle-{self.job_id}-{attempt}.tmp"

    def destination(self, output: str) -> Path:
        return self.results_dir / output

    def make(self, attempt: int, node_rank: int = 0) -> None:
        """The working folder with that of an attempt, and for the first node its staging folder.

        Raises FileNotFoundError if the disk of the results is not there.

        The node has made `.ladle` when it started; without it this is the empty folder below a lost mount, where nobody
        would find the result.
        """
        self.path.mkdir(exist_ok=True)
        self.state.mkdir(exist_ok=True)
        self.attempt(attempt, node_rank).make()
        if node_rank == 0:
            # Ranks may only write to folders that are there when they are confined.
            self.staging(attempt).mkdir(exist_ok=True)

    def remove_staging(self) -> None:
        """Removes what earlier attempts have written. None of them can move it to the destination from here on."""
        for folder in self.results_dir.glob(f".ladle-{self.job_id}-*.tmp"):
            self._remove_at_once(folder)

    def drop_staging(self, attempt: int) -> None:
        """Removes what this attempt has written, and will not publish."""
        self._remove_at_once(self.staging(attempt))

    def withdraw(self, destination: Path, attempt: str | None = None) -> None:
        """Removes a result of this job's, by one attempt or any, which then is no longer visible. Anybody else's folder
        stays."""

        def is_meant(folder: Path) -> bool:
            made_by = provenance_of(folder)
            return made_by.get("job_id") == self.job_id and attempt in (None, made_by.get("attempt"))

        if not is_meant(destination):
            return
        away = self._away()
        destination.rename(away)
        if is_meant(away):
            shutil.rmtree(away, ignore_errors=True)
        else:
            # Another result took its place a moment ago.
            away.rename(destination)

    def clear(
        self, destination: Path, *, keep_result: bool, withdraw_far: Callable[[str, str], None] | None = None
    ) -> None:
        """Removes what a job that has ended leaves. Its log is in Redis. `withdraw_far` gets the address of a result in
        a store, and the job's id; its `OSError` leaves the working folder.

        The order matters: without the staging folder no attempt can make a result visible, and the working folder shows
        that there is something to do, should this be interrupted.
        """
        self.remove_staging()
        if not keep_result:
            self.withdraw(destination)
            if withdraw_far is not None and self.far_result.exists():
                withdraw_far(json.loads(self.far_result.read_text()), self.job_id)
        shutil.rmtree(self.path, ignore_errors=True)

    def _remove_at_once(self, folder: Path) -> None:
        """So that nobody ever sees, or moves, a half of it."""
        away = self._away()
        try:
            folder.rename(away)
        except FileNotFoundError:
            return
        shutil.rmtree(away, ignore_errors=True)

    def _away(self) -> Path:
        return self.results_dir / f".ladle-{self.job_id}-{uuid.uuid4().hex[:12]}.tmp"


@dataclass(frozen=True)
class AttemptFolder:
    """`attempt-<n>/`"""

    path: Path

    def make(self) -> None:
        self.path.mkdir(exist_ok=True)
        self.temporary.mkdir(exist_ok=True)
        self.pulse.touch()

    @property
    def job(self) -> Path:
        """What the agent writes for the ranks."""
        return self.path / "job.json"

    @property
    def events(self) -> Path:
        """Rank 0 appends one line of JSON per event."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """What torchrun and the ranks print."""
        return self.path / "log.txt"

    @property
    def far_request(self) -> Path:
        """What the agent writes for the process that fetches far files."""
        return self.path / "far-request.json"

    @property
    def far(self) -> Path:
        """What that process writes when all is here: where it is, and which bytes."""
        return self.path / "far.json"

    @property
    def far_checked(self) -> Path:
        """What it writes at the end: whether the far files are still what they were."""
        return self.path / "far-checked.json"

    @property
    def plan(self) -> Path:
        """What the agent writes for the launcher of the ranks: how they are confined."""
        return self.path / "confinement.json"

    @property
    def hand_over(self) -> Path:
        """What a dispatcher writes for the machines that it was given."""
        return self.path / "hand-over.json"

    @property
    def held(self) -> Path:
        """A dispatcher touches it while the attempt is its own, and removes it at the end."""
        return self.path / "held"

    @property
    def places(self) -> Path:
        """Here each machine that a dispatcher was given says where it is: `<rank>.json`."""
        return self.path / "places"

    @property
    def crashed(self) -> Path:
        """A machine whose ranks ended of themselves writes it: those of other machines only follow."""
        return self.path / "crashed.json"

    @property
    def interrupted(self) -> Path:
        """A machine that was asked to end writes it: the ranks did not end by themselves."""
        return self.path / "interrupted.json"

    @property
    def temporary(self) -> Path:
        """The ranks' temporary folder."""
        return self.path / "tmp"

    @property
    def pulse(self) -> Path:
        """Ranks touch it while they work: its time is when they last did."""
        return self.path / "pulse"

    @property
    def outcome(self) -> Path:
        """Rank 0 writes it once, at the end."""
        return self.path / "outcome.json"

    def read_outcome(self) -> dict[str, Any] | None:
        """None if the ranks ended without saying why. Raises OSError if the folder is not there any more."""
        try:
            outcome: dict[str, Any] = well_formed(json.loads(self.outcome.read_text()))
        except FileNotFoundError:
            self.path.stat()
            return None
        return outcome

    def of_machine(self, node_rank: int) -> AttemptFolder:
        """The folder of another machine of the same attempt."""
        return AttemptFolder(self.path.with_name(f"{self.path.name}.{node_rank}")) if node_rank else self

    def try_writing(self) -> None:
        """Raises OSError if nothing can be written: then ranks that were silent could not speak."""
        write_whole(self.path / "try.json", " " * TRIED_CHARS)
        (self.path / "try.json").unlink()

    def tell(self, outcome: Mapping[str, Any]) -> None:
        """For a rank: writes the outcome or, where no file can be written, says it to the agent."""
        try:
            write_whole(self.outcome, outcome)
        except OSError:
            say(outcome)


def jobs_with_folders(results_dir: Path) -> set[str]:
    """The ids of all jobs with a working or staging folder in `results_dir`."""
    working = {path.name for path in (results_dir / JOBS_FOLDER).glob("*")}
    staging = {path.name.removeprefix(".ladle-").rpartition("-")[0] for path in results_dir.glob(".ladle-*-*.tmp")}
    return {name for name in working | staging if JOB_ID.fullmatch(name)}


def provenance_of(folder: Path) -> Mapping[str, Any]:
    """`job_id` and `attempt` of the job that wrote a result folder. Empty if no job did."""
    provenance = report_of(folder).get("provenance")
    return provenance if isinstance(provenance, dict) else {}


def report_of(folder: Path) -> Mapping[str, Any]:
    """The report of a result. Empty if there is none that can be read."""
    try:
        report = json.loads(read_plain_file(folder / "report.json"))
    except (OSError, ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def read_plain_file(path: Path) -> bytes:
    """A folder may be anybody's, and its report a pipe that never ends, or a link to somebody's secrets. Raises OSError
    or ValueError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"`{path}` must be a file.")
        return file.read(MAX_REPORT_BYTES)


def write_whole(path: Path, value: Any) -> None:
    """Writes JSON in one step, so that a reader never sees half of it."""
    temporary = path.with_suffix(f".{uuid.uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

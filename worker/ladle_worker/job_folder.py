"""The files through which a node agent and its ranks communicate: docs/architecture.md, "The job folder"."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle_contracts import JobSpec

JOBS_FOLDER = ".ladle"


@dataclass(frozen=True)
class JobFolder:
    """`<results>/.ladle/<job id>/`"""

    results_dir: Path
    job_id: str

    @property
    def path(self) -> Path:
        return self.results_dir / JOBS_FOLDER / self.job_id

    @property
    def state(self) -> Path:
        """The engine's resume state, which later attempts use."""
        return self.path / "state"

    def attempt(self, number: int) -> AttemptFolder:
        return AttemptFolder(self.path / f"attempt-{number}")

    def staging(self, attempt: int) -> Path:
        """Where rank 0 writes the model, next to its destination."""
        return self.results_dir / f".ladle-{self.job_id}-{attempt}.tmp"

    def destination(self, spec: JobSpec) -> Path:
        return self.results_dir / (spec.output.name or self.job_id)

    def remove_staging(self) -> None:
        """Removes what earlier attempts left half written."""
        for folder in self.results_dir.glob(f".ladle-{self.job_id}-*.tmp"):
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Removes the working files of a job that has ended. Its log is in Redis, and its result in its place."""
        self.remove_staging()
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True)
class AttemptFolder:
    """`attempt-<n>/`"""

    path: Path

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
    def plan(self) -> Path:
        """What the agent writes for the launcher of the ranks: how they are confined."""
        return self.path / "confinement.json"

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
        """None if the ranks ended without saying why."""
        if not self.outcome.exists():
            return None
        outcome: dict[str, Any] = json.loads(self.outcome.read_text())
        return outcome


def jobs_with_folders(results_dir: Path) -> set[str]:
    """The ids of all jobs with a working or staging folder in `results_dir`."""
    working = {path.name for path in (results_dir / JOBS_FOLDER).glob("*")}
    staging = {path.name.removeprefix(".ladle-").rpartition("-")[0] for path in results_dir.glob(".ladle-*-*.tmp")}
    return working | staging


def write_whole(path: Path, value: Any) -> None:
    """Writes JSON in one step, so that a reader never sees half of it."""
    temporary = path.with_suffix(f".{uuid.uuid4().hex[:8]}.tmp")
    with temporary.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

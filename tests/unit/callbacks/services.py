"""A service in this process: it averages with equal weights and says scores that a test can tell apart."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ladle.callbacks import _averager
from ladle_contracts import CandidateResult, JobResult
from ladle_engine import combine_checkpoints


class Service:
    """`client_for` of the callbacks gives it in the place of a client."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.jobs: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.roots: Sequence[str] = ()

    @contextmanager
    def client_for(self, roots: Sequence[str], results: Path) -> Iterator[Service]:
        self.roots = roots
        if self.error is not None:
            raise self.error
        yield self

    def submit(self, ckpt_dir: Path, val_set: Any, **options: Any) -> Job:
        self.jobs.append({"ckpt_dir": Path(ckpt_dir), "val_set": val_set, **options})
        return Job(self, len(self.jobs), self.jobs[-1])


class Job:
    def __init__(self, service: Service, number: int, spec: dict[str, Any]) -> None:
        self.id, self.number, self.service, self.spec = f"job-{number}", number, service, spec

    def result(self) -> JobResult:
        assert self.service.may_go_on.wait(300)
        steps = self.spec["checkpoints"]["steps"]
        output = self.service.results / self.id
        combine_checkpoints(self.spec["ckpt_dir"], steps=steps, output=output)
        (output / "report.json").write_text("{}")
        score = 0.5 + self.number / 100
        return JobResult(
            folder=str(output), method="uniform", metric="accuracy", higher_is_better=True,
            candidates=(
                CandidateResult(method="best", label="best", select={"accuracy": score - 0.1, "loss": 2.0}),
                CandidateResult(method="uniform", label="uniform", select={"accuracy": score, "loss": 1.0}),
            ),
            best_checkpoint=f"checkpoint-{steps[0]}", gain=0.1, gain_low=0.05, gain_high=0.15,
            num_checkpoints=len(steps), num_parameters=1, duration_s=1.0, files={},
        )  # fmt: skip


def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service(tmp_path / "of-the-service")
    service.results.mkdir()
    monkeypatch.setattr(_averager, "client_for", service.client_for)
    return service

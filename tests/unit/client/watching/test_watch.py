"""The loop against folders that change as a training changes them, with a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ladle import JobFailed, LadleError, ServiceUnreachable
from ladle.curve import CurvePoint
from ladle.watching.ready import Ready
from ladle.watching.watch import CannotAverage, Watch
from ladle_contracts import JobState, Reason
from ladle_contracts.inspection import InspectedCheckpoint, Inspection, InspectionProblem
from tests.unit.client.answers import record

CUT = InspectionProblem(code="corrupt-checkpoint", message="cut off")


@dataclass
class Training:
    """Writes into a folder between two looks, and plays the inspection and the jobs. A file with `half` is cut off."""

    folder: Path
    script: list[Callable[[], Any]]
    now_s: float = 0.0
    jobs: list[tuple[str, ...]] = field(default_factory=list)
    fail: list[LadleError | None] = field(default_factory=list)
    """For each job in turn."""
    said: list[str] = field(default_factory=list)
    problems: tuple[InspectionProblem, ...] = ()
    inspections: int = 0

    def write(self, name: str, text: str = "whole") -> Callable[[], Any]:
        return lambda: (self.folder / name).write_text(text)

    def delete(self, name: str) -> Callable[[], Any]:
        return lambda: (self.folder / name).unlink()

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.script:
            self.script.pop(0)()

    def inspect(self) -> Inspection:
        self.inspections += 1
        rows = []
        for path in sorted(self.folder.glob("*.pt")):
            problem = CUT if "half" in path.read_text() else None
            rows.append(
                InspectedCheckpoint(
                    name=path.name, format="pickle", step=int(path.stem), size_bytes=1, num_files=1,
                    taken=problem is None, usable=problem is None, problem=problem,
                )
            )  # fmt: skip
        return Inspection(folder=str(self.folder), usable=True, checkpoints=tuple(rows), problems=self.problems)

    def average(self, ready: Ready) -> CurvePoint:
        self.jobs.append(tuple(Path(name).stem for name in ready.taken))
        error = self.fail.pop(0) if self.fail else None
        if error is not None:
            raise error
        return CurvePoint(
            step=ready.last_step, checkpoints=len(ready.taken), metric="accuracy", average=0.5, best=0.4, last=0.4,
            folder="/r", job_id=f"j{len(self.jobs)}", taken=ready.taken,
        )  # fmt: skip

    def points(self, **changes: Any) -> list[CurvePoint]:
        options: dict[str, Any] = {"idle_s": 50.0, **changes}
        watch = Watch(
            folder=self.folder, inspect=self.inspect, average=self.average, say=self.said.append,
            clock=lambda: self.now_s, sleep=self.sleep, **options,
        )  # fmt: skip
        return list(watch.points())


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path, [])


def nothing() -> None:
    pass


def failed(reason: Reason) -> JobFailed:
    return JobFailed(record(JobState.FAILED, reason=reason, message="`2.pt` is gone"))


def test_each_new_checkpoint_makes_a_point_once_it_does_not_change_any_more(training: Training) -> None:
    write = training.write
    training.script = [write("1.pt"), nothing, write("2.pt"), nothing, nothing, write("3.pt", "half"), nothing, nothing,
        write("4.pt"), nothing, nothing, write("3.pt"), nothing, nothing]  # fmt: skip
    points = training.points()
    assert training.jobs == [("1", "2"), ("1", "2", "4"), ("1", "2", "3", "4")]
    assert [point.step for point in points] == [2, 4, 4]
    assert any("Left out: `3.pt`. cut off" in text for text in training.said)


def test_the_folder_may_come_later_and_an_idle_watch_ends_with_what_is_left(training: Training) -> None:
    training.folder = training.folder / "later"
    write = training.write
    training.script = [nothing, training.folder.mkdir, write("1.pt"), write("2.pt"), nothing, nothing, write("3.pt")]
    points = training.points(every=2)
    assert training.jobs == [("1", "2"), ("1", "2", "3")], "the last one is not the second new one"
    assert len(points) == 2
    assert training.said[0].startswith("Waiting for checkpoints in")


def test_nothing_is_inspected_while_nothing_changes(training: Training) -> None:
    training.write("1.pt")()
    training.write("2.pt")()
    training.points(idle_s=1000.0)
    assert training.inspections == 1


def test_a_job_that_lost_a_checkpoint_costs_one_line_and_not_the_watch(training: Training) -> None:
    for number in (1, 2, 3):
        training.write(f"{number}.pt")()
    training.fail = [failed(Reason.INPUTS_CHANGED)]
    training.script = [nothing, nothing, training.delete("1.pt"), nothing]
    assert [point.checkpoints for point in training.points()] == [2]
    assert training.jobs == [("1", "2", "3"), ("2", "3")], "it is not tried again with the same"
    assert training.said == ["No average this time: `2.pt` is gone [inputs-changed]"]


def test_a_service_that_does_not_answer_is_asked_again(training: Training) -> None:
    for number in (1, 2):
        training.write(f"{number}.pt")()
    training.fail = [ServiceUnreachable("no answer"), ServiceUnreachable("no answer")]
    assert len(training.points()) == 1
    assert len(training.jobs) == 3
    assert training.said == ["Trying again: no answer"] * 2


@pytest.mark.parametrize("reason", [Reason.INVALID_DATA, Reason.UNKNOWN_METRIC, Reason.DISK_FULL])
def test_what_no_later_checkpoint_mends_ends_the_watch(training: Training, reason: Reason) -> None:
    for number in (1, 2):
        training.write(f"{number}.pt")()
    training.fail = [failed(reason)]
    with pytest.raises(JobFailed):
        training.points()


def test_an_inspection_that_a_job_would_fail_with_ends_the_watch_without_a_job(training: Training) -> None:
    for number in (1, 2):
        training.write(f"{number}.pt")()
    training.problems = (InspectionProblem(code="unknown-task", message="say which"),)
    with pytest.raises(CannotAverage, match=r"say which \[unknown-task\]"):
        training.points()
    assert not training.jobs


def test_a_watch_goes_on_where_the_last_one_ended(training: Training) -> None:
    for number in (1, 2):
        training.write(f"{number}.pt")()
    (first,) = training.points()
    assert training.points(averaged=first.taken) == []
    training.write("3.pt")()
    (second,) = training.points(averaged=first.taken)
    assert second.checkpoints == 3

"""A running job as a person sees it: on terminals of all sizes, and in a log file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console

from ladle.cli.console import SafeConsole
from ladle.cli.job_lines import JobLines
from ladle.cli.job_picture import JobPicture
from ladle.cli.job_view import JobView, pace_text
from ladle.cli.watch import is_live
from ladle_contracts import (
    CandidateResult,
    CandidateScored,
    CheckpointsFound,
    Event,
    EventBody,
    JobState,
    StageStarted,
    StateChanged,
    StepDone,
    UnknownEvent,
    Warned,
)
from tests.unit.client.answers import NOW


def happened(body: EventBody, at_s: float = 0.0, attempt: int = 1) -> Event:
    return Event(id="1-0", job_id="j", attempt=attempt, time=NOW + timedelta(seconds=at_s), body=body)


def candidate(method: str, accuracy: float, gain: float) -> CandidateResult:
    return CandidateResult(
        method=method, label=method, select={"accuracy": accuracy, "loss": 0.5}, gain=gain, gain_low=gain - 0.01,
        gain_high=gain + 0.01,
    )  # fmt: skip


TRAINING = StepDone(
    stage="train", method="twa", step=24, total=96, loss=0.25, eta_s=200.0, rate=12.41, unit="steps"
)  # fmt: skip


def training() -> JobPicture:
    """A job that trains coefficients, two seconds after it began to evaluate checkpoints."""
    picture = JobPicture("job-7")
    for at_s, body in enumerate(
        (
            StateChanged(state=JobState.RUNNING),
            StageStarted(stage="discover"),
            CheckpointsFound(names=("a", "b"), num_parameters=1034, dtype="float32", task="small-cnn", order="step"),
            StageStarted(stage="check", total=4),
            StageStarted(stage="evaluate", total=2),
            CandidateScored(candidate=candidate("best", 0.915, 0.0)),
            StageStarted(stage="train", method="twa", total=96),
            TRAINING,
            CandidateScored(candidate=candidate("last-k", 0.948, 0.033)),
        )
    ):
        picture.take(happened(body, at_s))
    return picture


def drawn(picture: JobPicture, width: int = 120, height: int = 50, **options: Any) -> str:
    file = io.StringIO()
    console = SafeConsole(file=file, width=width, height=height, force_terminal=True, color_system=None, **options)
    console.print(JobView(picture))
    return file.getvalue()


def test_all_stages_are_a_list_with_the_pace_of_the_one_that_goes_on() -> None:
    text = drawn(training())
    lines = text.splitlines()
    order = ["finding checkpoints", "checking checkpoints", "evaluating", "choosing", "judging", "writing", "verifying"]
    rows = [next(index for index, line in enumerate(lines) if words in line) for words in order]
    assert rows == sorted(rows), text
    assert "✓ finding checkpoints" in text
    assert "2 s" in lines[rows[0]], "from its own begin to the next one's"
    assert "· evaluating checkpoints" in text, "a job may come back to it"
    (current,) = [line for line in lines if "choosing coefficients: twa" in line]
    for words in ("24/96", "12.4 steps/s", "3 min 20 s left", "loss 0.2500"):
        assert words in current
    assert "fetching" not in text, "nothing is far"
    assert "2 checkpoints in order of step, 1,034 parameters, float32, small-cnn" in text


def test_what_is_best_so_far_is_said_with_its_gain() -> None:
    best = "best so far: last-k, accuracy 94.8 % instead of 91.5 %: 3.30 points better than the best checkpoint"
    assert best in drawn(training())
    nothing = JobPicture("j")
    nothing.take(happened(CandidateScored(candidate=candidate("best", 0.9, 0.0))))
    nothing.take(happened(CandidateScored(candidate=candidate("ema", 0.8, -0.1))))
    assert "best so far: the best checkpoint" in drawn(nothing)


def test_a_stage_that_was_left_for_good_is_ticked_and_one_that_never_came_is_not_shown() -> None:
    picture = JobPicture("j")
    for body in (StateChanged(state=JobState.RUNNING), StageStarted(stage="check"), StageStarted(stage="write")):
        picture.take(happened(body))
    text = drawn(picture)
    assert "✓ checking checkpoints" in text
    assert "choosing coefficients" not in text
    assert "▸ writing the model" in text


def test_a_new_attempt_begins_from_the_front_and_scores_a_candidate_once() -> None:
    picture = training()
    picture.take(happened(CandidateScored(candidate=candidate("last-k", 0.95, 0.05))))
    assert drawn(picture).count("points better ") == 2, "in the table, and best so far"
    picture.take(happened(StateChanged(state=JobState.QUEUED, message="the node went away"), attempt=2))
    text = drawn(picture)
    assert "attempt 2" in text
    assert "the node went away" in text
    assert "24/96" not in text


def test_why_a_job_waits_is_shown_while_it_waits() -> None:
    picture = JobPicture("j", waits="needs 2 nodes, 1 free; position 3")
    assert "needs 2 nodes, 1 free; position 3" in drawn(picture)
    picture.take(happened(StateChanged(state=JobState.RUNNING)))
    assert "needs 2 nodes" not in drawn(picture)


@pytest.mark.parametrize("width", [24, 40, 60, 72, 80, 100, 200])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    text = drawn(training(), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "24/96" in text or width < 50


def test_a_narrow_terminal_keeps_the_gain_and_leaves_out_the_rest() -> None:
    assert "95 % interval" in drawn(training(), width=100)
    narrow = drawn(training(), width=60)
    assert "95 % interval" not in narrow
    assert "3.30 points better" in narrow
    assert "24/96  3 min 20 s left" in narrow


def test_a_short_terminal_shows_the_stage_that_goes_on() -> None:
    text = drawn(training(), height=12)
    assert "choosing coefficients: twa" in text
    assert "writing the model" not in text
    assert "95 % interval" in text
    shortest = drawn(training(), height=7)
    assert "95 % interval" not in shortest
    assert "best so far: last-k" in shortest
    assert len(shortest.splitlines()) < 7


def test_a_terminal_without_unicode_gets_none() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    SafeConsole(file=file, width=120, height=50, force_terminal=True, color_system=None).print(JobView(training()))
    file.flush()


def test_without_colours_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    SafeConsole(file=file, width=120, height=50, force_terminal=True).print(JobView(training()))
    assert "\x1b[3" not in file.getvalue(), "colours begin so; bold and dim may stay"


@pytest.mark.parametrize(
    ("terminal", "term", "live"), [(True, "xterm", True), (True, "dumb", False), (False, "", False)]
)
def test_only_a_terminal_that_can_draw_over_is_drawn_on(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, live: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    assert is_live(Console(file=io.StringIO(), force_terminal=terminal)) is live


@pytest.mark.parametrize(
    ("rate", "unit", "words"),
    [(12.41, "steps", "12.4 steps/s"), (1250.4, "examples", "1,250 examples/s"), (1.23e9, "bytes", "1.23 GB/s")],
)
def test_a_rate_has_the_unit_of_its_stage(rate: float, unit: str, words: str) -> None:
    picture = JobPicture("j")
    picture.take(happened(StepDone(stage="check", step=1, total=9, rate=rate, unit=unit)))
    assert picture.current is not None
    assert pace_text(picture.current) == f"1/9  {words}"


class Clock:
    """The time in the test's hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def steps(count: int) -> Iterator[Event]:
    for step in range(1, count + 1):
        yield happened(StepDone(stage="train", method="twa", step=step, total=count, loss=0.5))


def test_a_log_of_a_long_job_has_few_lines() -> None:
    clock = Clock()
    lines = JobLines(JobPicture("j"), clock)
    told = []
    for event in steps(4 * 3600):
        clock.now += 1.0
        if line := lines.take(event):
            told.append(line)
    assert told[0] == "choosing coefficients: twa 1/14,400  loss 0.5000"
    assert 200 < len(told) < 400, "four hours: one in five seconds at first, one in a minute later"
    assert not any("\r" in line for line in told)


def test_a_log_says_each_stage_once_and_each_warning_once() -> None:
    lines = JobLines(JobPicture("j"), Clock())
    bodies = [
        StageStarted(stage="evaluate"), StageStarted(stage="train", method="ema"), StageStarted(stage="evaluate"),
        Warned(message="careful"), Warned(message="careful"), StateChanged(state=JobState.QUEUED, message="again"),
        StageStarted(stage="evaluate"),
    ]  # fmt: skip
    told = [line for body in bodies if (line := lines.take(happened(body)))]
    once = ["evaluating checkpoints", "choosing coefficients", "warning: careful"]
    assert told == [*once, "queued: again", "evaluating checkpoints"]


def test_an_event_of_a_newer_version_is_told_with_all_it_has() -> None:
    unknown = UnknownEvent.model_validate({"kind": "novel", "much": 3}, extra="allow")
    assert JobLines(JobPicture("j"), Clock()).take(happened(unknown)) == 'novel: {"much": 3}'

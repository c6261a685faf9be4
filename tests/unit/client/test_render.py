"""What a person reads at the end of a job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console, RenderableType

from ladle.cli import app
from ladle.cli.render import ago, candidates_table, duration, jobs_table, record_summary, result_summary
from ladle.cli.watch import View, line_of
from ladle_contracts import (
    CandidateResult,
    CandidateScored,
    Event,
    JobResult,
    JobState,
    Reason,
    StageStarted,
    StateChanged,
    StepDone,
)
from tests.unit.client.answers import RESULT, record


def shown(view: RenderableType) -> str:
    console = Console(width=200, highlight=False, markup=app.out._markup, force_terminal=False)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def candidate(method: str, accuracy: float, loss: float, gain: float) -> CandidateResult:
    return CandidateResult(
        method=method, label=method, select={"accuracy": accuracy, "loss": loss}, fit={}, gain=gain,
        gain_low=gain - 0.01, gain_high=gain + 0.01,
    )  # fmt: skip


def result(method: str, *candidates: CandidateResult, metric: str = "accuracy", **gains: float) -> JobResult:
    changes = {"method": method, "metric": metric, "candidates": candidates, "best_checkpoint": "epoch-3"} | gains
    return RESULT.model_copy(update=changes)


def test_a_winner_is_named_with_its_gain_and_doubt() -> None:
    candidates = candidate("best", 0.9, 0.4, 0.0), candidate("twa", 0.92, 0.3, 0.02)
    sure = shown(result_summary(result("twa", *candidates, gain=0.02, gain_low=0.01, gain_high=0.03)))
    assert "twa wins: +0.0200 accuracy over epoch-3 (+0.0100 to +0.0300)" in sure
    assert "chance" not in sure
    unsure = shown(result_summary(result("twa", *candidates, gain=0.02, gain_low=-0.01, gain_high=0.05)))
    assert "it may be chance" in unsure


def test_when_nothing_beats_the_best_it_says_so_and_points_at_a_lower_loss() -> None:
    candidates = candidate("best", 0.9, 0.4, 0.0), candidate("twa", 0.89, 0.3, -0.01)
    text = shown(result_summary(result("best", *candidates, gain=0.0, gain_low=0.0, gain_high=0.0)))
    assert "No average beat the best checkpoint" in text
    assert "twa has a lower loss there (0.3000 against 0.4000): `--metric loss` would return it" in text
    by_loss = candidate("best", 0.9, 0.4, 0.0), candidate("twa", 0.89, 0.5, -0.1)
    assert "--metric loss" not in shown(result_summary(result("best", *by_loss)))


def test_the_table_fills_in_row_by_row_and_the_bar_has_no_gain_of_its_own() -> None:
    rows = [candidate("best", 0.9, 0.4, 0.0)]
    assert "+0.0000" not in shown(candidates_table(rows, "accuracy"))
    rows.append(candidate("twa", 0.91, 0.3, 0.01))
    assert "+0.0100  +0.0000 to +0.0200" in shown(candidates_table(rows, "accuracy"))


def event(body: object, attempt: int = 1) -> Event:
    return Event.model_construct(id="1-0", job_id="j", attempt=attempt, time=datetime.now(UTC), body=body)


def test_the_live_view_shows_state_stage_step_loss_and_time_left() -> None:
    view = View("job-7")
    view.take(event(StateChanged(state=JobState.RUNNING)))
    view.take(event(StageStarted(stage="train", method="twa", total=96)))
    view.take(event(StepDone(stage="train", method="twa", step=24, total=96, loss=0.25, eta_s=200.0)))
    text = shown(view)
    for words in ("job-7", "running", "choosing coefficients: twa", "24/96", "loss 0.2500", "3 min 20 s left"):
        assert words in text
    view.take(event(CandidateScored(candidate=candidate("twa", 0.9, 0.3, 0.1))))
    view.take(event(CandidateScored(candidate=candidate("twa", 0.9, 0.3, 0.2))))
    assert shown(view).count("+0.2000") == 1, "a second attempt scores a candidate again, and it stands there once"
    view.take(event(StateChanged(state=JobState.QUEUED, message="the node went away"), attempt=2))
    again = shown(view)
    assert "attempt 2" in again
    assert "the node went away" in again
    assert "24/96" not in again


def test_plain_lines_say_what_happened() -> None:
    step = StepDone(stage="evaluate", step=3, total=9)
    assert line_of(event(step)) == "evaluating checkpoints 3/9"
    assert line_of(event(StageStarted(stage="train"))) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3599.9, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_clock_that_goes_wrong_shows_no_negative_time() -> None:
    assert ago(datetime.now(UTC) + timedelta(minutes=5)) == "0 s ago"


def test_brackets_in_paths_and_messages_are_shown_as_they_are() -> None:
    failed = record(JobState.FAILED, reason=Reason.OUT_OF_MEMORY, message="too much")
    odd = failed.model_copy(update={"spec": failed.spec.model_copy(update={"ckpt_dir": "/data/[resnet]/run[/x]"})})
    assert "too much [out-of-memory]" in shown(record_summary(odd))
    assert "/data/[resnet]/run[/x]" in shown(record_summary(odd))
    assert "/data/[resnet]/run[/x]" in shown(jobs_table([odd]))

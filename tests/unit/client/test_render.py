"""What a person reads at the end of a job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console, RenderableType

from ladle.cli import app
from ladle.cli.job_lines import line_of
from ladle.cli.job_picture import JobPicture
from ladle.cli.job_view import JobView
from ladle.cli.render import candidates_table, duration, jobs_table, record_summary, result_summary
from ladle_contracts import (
    CandidateResult,
    CandidateScored,
    Event,
    JobResult,
    JobSpec,
    JobState,
    Reason,
    SetResult,
)
from ladle_report.gains import better, better_between, compared, compared_between
from ladle_report.numbers import ago
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
    assert "twa wins: accuracy 2.00 points higher than epoch-3 (95 % interval: 1.00 to 3.00 points higher)." in sure
    assert "chance" not in sure
    unsure = shown(result_summary(result("twa", *candidates, gain=0.02, gain_low=-0.01, gain_high=0.05)))
    assert "The interval includes zero, so this may be chance." in unsure


def test_the_verdict_says_what_the_interval_counts_and_what_would_show_the_gain() -> None:
    candidates = candidate("best", 0.9, 0.4, 0.0), candidate("ema", 0.91, 0.3, 0.01), candidate("twa", 0.92, 0.3, 0.02)
    known = {"gain": 0.02, "gain_low": -0.01, "gain_high": 0.05, "visible_gain": 0.031, "examples_needed": 1_234}
    text = shown(result_summary(result("twa", *candidates, **known)))
    assert "(95 % interval, counting that the best of several was picked: " in text
    needed = "a gain of 3.10 points is seen four times in five. To see one as large as the difference of {} takes about"
    assert f"On these examples {needed.format('twa')} 1,300." in text
    behind = candidate("ema", 0.89, 0.5, -0.01)
    nothing = result("best", candidates[0], behind, visible_gain=0.031, examples_needed=1_234)
    assert needed.format("ema") in " ".join(shown(result_summary(nothing)).split())
    earlier = shown(result_summary(result("twa", *candidates, gain=0.02, gain_low=-0.01, gain_high=0.05)))
    assert "counting" not in earlier
    assert "four times in five" not in earlier


def test_the_verdict_says_where_the_loss_decided() -> None:
    candidates = candidate("best", 0.9, 0.4, 0.0), candidate("ema", 0.93, 0.5, 0.03), candidate("twa", 0.92, 0.3, 0.02)
    decided = "By accuracy `ema` is ahead, but the difference may be chance, so the lower loss decided."
    assert decided in shown(result_summary(result("twa", *candidates, gain=0.02, gain_low=0.01, gain_high=0.03)))
    best = shown(result_summary(result("best", *candidates[:2], gain=0.0, gain_low=0.0, gain_high=0.0)))
    assert "No average was better than the best checkpoint beyond chance, so the result is epoch-3" in best
    assert decided in best
    assert "decided" not in shown(result_summary(result("ema", *candidates, gain=0.03, gain_low=0.01, gain_high=0.05)))


def test_when_nothing_beats_the_best_it_says_so_and_points_at_a_lower_loss() -> None:
    candidates = candidate("best", 0.9, 0.4, 0.0), candidate("twa", 0.89, 0.3, -0.01)
    text = shown(result_summary(result("best", *candidates, gain=0.0, gain_low=0.0, gain_high=0.0)))
    assert "No average was better than the best checkpoint" in text
    assert "twa has a lower loss (0.3000 instead of 0.4000). With `--metric loss` the loss decides." in text
    by_loss = candidate("best", 0.9, 0.4, 0.0), candidate("twa", 0.89, 0.5, -0.1)
    assert "--metric loss" not in shown(result_summary(result("best", *by_loss)))


def test_tensors_that_were_taken_from_another_checkpoint_are_said() -> None:
    candidates = candidate("best", 0.9, 0.4, 0.0), candidate("twa", 0.92, 0.3, 0.02)
    best = result("best", candidates[0])
    assert "the result is epoch-3, unchanged." in shown(result_summary(best))
    taken = {"tensors_taken": {"epoch-7": 2, "epoch-1": 1}}
    text = shown(result_summary(best.model_copy(update=taken)))
    assert "the result is epoch-3, but for 2 tensors of epoch-7, 1 tensor of epoch-1." in text
    assert "unchanged" not in text
    averaged = result("twa", *candidates, gain=0.02, gain_low=0.01, gain_high=0.03)
    assert "as they are: 2 tensors of epoch-7" in shown(result_summary(averaged.model_copy(update=taken)))
    assert "as they are" not in shown(result_summary(averaged))


def on_set(accuracy: float, low: float, high: float) -> SetResult:
    return SetResult(select={"accuracy": accuracy, "loss": 0.1}, gain=(low + high) / 2, gain_low=low, gain_high=high)


def test_each_validation_set_has_its_own_scores() -> None:
    best = candidate("best", 0.9, 0.4, 0.0).model_copy(
        update={"sets": {"clean": on_set(0.95, 0, 0), "noisy": on_set(0.85, 0, 0)}}
    )
    twa = candidate("twa", 0.92, 0.3, 0.02).model_copy(
        update={"sets": {"clean": on_set(0.99, 0.03, 0.05), "noisy": on_set(0.8, -0.06, -0.04)}}
    )
    text = shown(result_summary(result("twa", best, twa, gain=0.02, gain_low=0.01, gain_high=0.03)))
    assert "clean  best      0.9500" in text
    assert "clean  twa       0.9900  4.00 points better  3.00 to 5.00 better" in text
    assert "noisy  twa       0.8000   5.00 points worse   4.00 to 6.00 worse" in text
    picture = JobPicture("j", metric="accuracy")
    picture.take(event(CandidateScored(candidate=twa)))
    assert "noisy  twa" in shown(JobView(picture))
    held = shown(result_summary(result("best", best, twa, gain=0.0, gain_low=0.0, gain_high=0.0)))
    assert "Every average that was better than the best checkpoint is worse on some validation set" in held
    spec = JobSpec(ckpt_dir="/c", val_set={"clean": "/a", "noisy": "/b"})
    described = shown(record_summary(record().model_copy(update={"spec": spec})))
    assert "validation set clean  /a" in described
    assert "validation set noisy  /b" in described
    assert "set " not in shown(result_summary(RESULT))


def test_a_lower_loss_reads_as_a_gain_and_never_as_an_increase() -> None:
    candidates = candidate("best", 0.9, 0.4, 0.0), candidate("twa", 0.9, 0.3122, 0.0878)
    changes = {"metric": "loss", "higher_is_better": False, "gain": 0.0878, "gain_low": -0.01, "gain_high": 0.2}
    text = shown(result_summary(result("twa", *candidates).model_copy(update=changes)))
    assert "twa wins: loss 0.0878 lower than epoch-3 (95 % interval: 0.0100 higher to 0.2000 lower)." in text
    assert "0.0878 better  0.0778 to 0.0978 better" in text
    assert "+" not in text
    done = record(JobState.SUCCEEDED, result=result("twa", *candidates).model_copy(update=changes))
    assert "twa: loss 0.0878 lower" in shown(jobs_table([done]))
    line = line_of(event(CandidateScored(candidate=candidates[1])), JobPicture("j", metric="loss"))
    assert line == "twa: accuracy 0.9000, loss 0.3122; against the best checkpoint 0.0878 better"


@pytest.mark.parametrize(
    ("metric", "higher", "gain", "in_a_table", "in_a_sentence"),
    [
        ("accuracy", True, 0.012, "1.20 points better", "accuracy 1.20 points higher"),
        ("top5-accuracy", True, -0.012, "1.20 points worse", "top5-accuracy 1.20 points lower"),
        ("loss", False, -0.5, "0.5000 worse", "loss 0.5000 higher"),
        ("f1", True, 0.25, "0.2500 better", "f1 0.2500 higher"),
        ("loss", False, 0.00001, "1e-05 better", "loss 1e-05 lower"),
    ],
)
def test_a_gain_is_told_in_the_metrics_own_direction(
    metric: str, higher: bool, gain: float, in_a_table: str, in_a_sentence: str
) -> None:
    assert better(metric, gain) == in_a_table
    assert compared(metric, higher, gain) == in_a_sentence


def test_an_interval_is_told_from_the_smaller_change_to_the_larger_one() -> None:
    assert better_between("accuracy", 0.005, 0.018) == "0.50 to 1.80 better"
    assert better_between("accuracy", -0.018, -0.005) == "0.50 to 1.80 worse"
    assert better_between("loss", -0.01, 0.03) == "0.0100 worse to 0.0300 better"
    assert better_between("bleu", 0.0, 0.0) == "equal"
    assert compared_between("accuracy", True, 0.005, 0.018) == "0.50 to 1.80 points higher"
    assert compared_between("loss", False, -0.01, 0.03) == "0.0100 higher to 0.0300 lower"


def test_a_tie_that_the_loss_decides_is_told_as_one() -> None:
    candidates = candidate("best", 0.9, 0.4, 0.0), candidate("twa", 0.9, 0.3, 0.0)
    tied = result("twa", *candidates, gain=0.0, gain_low=0.0, gain_high=0.0)
    text = shown(result_summary(tied))
    assert "twa wins: the same accuracy as epoch-3, with a lower loss (0.3000 instead of 0.4000)." in text
    assert "equal" in text
    listed = shown(jobs_table([record(JobState.SUCCEEDED, result=tied)]))
    assert "twa: same accuracy, lower loss" in listed


def test_the_table_fills_in_row_by_row_and_the_bar_has_no_gain_of_its_own() -> None:
    rows = [candidate("best", 0.9, 0.4, 0.0)]
    assert "better" not in shown(candidates_table(rows, "accuracy"))
    assert "equal" not in shown(candidates_table(rows, "accuracy"))
    rows.append(candidate("twa", 0.91, 0.3, 0.01))
    assert "1.00 points better  0.00 to 2.00 better" in shown(candidates_table(rows, "accuracy"))


def event(body: object, attempt: int = 1) -> Event:
    return Event.model_construct(id="1-0", job_id="j", attempt=attempt, time=datetime.now(UTC), body=body)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3599.9, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8, "8 s ago"), (90, "1 min ago"), (3599, "59 min ago"), (86400 + 60, "24 h ago"), (5 * 86400, "5 days ago")],
)
def test_how_long_ago_is_told_in_one_unit(seconds: int, text: str) -> None:
    assert ago(datetime.now(UTC) - timedelta(seconds=seconds)) == text


def test_a_narrow_terminal_still_shows_whole_ids_and_states() -> None:
    rows = [record(JobState.SUCCEEDED, id="d1f92b01d6186bd4b85e"), record(JobState.FINALIZING, id="0" * 20)]
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(jobs_table(rows))
    for words in ("d1f92b01d6186bd4b85e", "succeeded", "finalizing"):
        assert words in capture.get()


def test_a_clock_that_goes_wrong_shows_no_negative_time() -> None:
    assert ago(datetime.now(UTC) + timedelta(minutes=5)) == "0 s ago"


def test_brackets_in_paths_and_messages_are_shown_as_they_are() -> None:
    failed = record(JobState.FAILED, reason=Reason.OUT_OF_MEMORY, message="too much")
    odd = failed.model_copy(update={"spec": failed.spec.model_copy(update={"ckpt_dir": "/data/[resnet]/run[/x]"})})
    assert "too much [out-of-memory]" in shown(record_summary(odd))
    assert "/data/[resnet]/run[/x]" in shown(record_summary(odd))
    assert "/data/[resnet]/run[/x]" in shown(jobs_table([odd]))


def test_a_merge_curve_is_told_in_its_words_and_names_no_model() -> None:
    candidates = candidate("best", 0.9, 0.4, 0.0), candidate("profile", 0.92, 0.3, 0.02)
    curve = result("profile", *candidates, gain=0.02, gain_low=0.01, gain_high=0.03).model_copy(
        update={"words": ("Averaging still pays at the end.", "Going on would pay.")}
    )
    text = shown(result_summary(curve))
    assert "Averaging still pays at the end.\nGoing on would pay." in text
    assert "Curve: " in text
    assert "Model: " not in text
    assert "profile wins" not in text

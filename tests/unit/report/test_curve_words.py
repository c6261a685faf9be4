"""What a merge curve says, and how a report of one draws it."""

from __future__ import annotations

from typing import Any

import pytest

from ladle_report import markdown
from ladle_report.curve_words import BEST_PROFILE, curve_words
from tests.unit.report.reports import report


def point(step: int | None, low: float, **more: Any) -> dict[str, Any]:
    return {
        "checkpoint": f"step-{step}",
        "step": step,
        "averaged": 8,
        "gain": {"value": low + 0.01, "low": low, "high": low + 0.02},
        **more,
    }


def curve(points: list[dict[str, Any]], quarter: dict[str, float] | None) -> dict[str, Any]:
    last = None if quarter is None else {"from": "step-3", "to": "step-4", "gain": quarter}
    return {"metric": "accuracy", "average_is": BEST_PROFILE, "points": points, "last_quarter": last}


def test_it_says_where_averaging_stops_paying() -> None:
    (said,) = curve_words(curve([point(1000, -0.01), point(2000, 0.005), point(3000, -0.001)], None))
    assert said.startswith("Averaging stops paying after `step-2000`: it pays at 1 of 3 points")


def test_it_says_that_averaging_still_pays_at_the_end_and_by_how_much() -> None:
    (said,) = curve_words(curve([point(1, -0.01), point(2, 0.005)], None))
    assert said == (
        "Averaging still pays at the end, as at 1 of 2 points: the average of 8 checkpoints is 1.50 points better "
        "(0.36 to 2.64 better) than the newest one, by an interval for all points at once."
    )


def test_one_point_of_many_that_is_better_by_chance_does_not_pay() -> None:
    # Each is 2.5 standard errors of its own interval ahead at most: enough for one of two points, not for one of six.
    lucky = point(2, 0.0022)
    assert "as at 1 of 2" in curve_words(curve([point(1, -0.01), lucky], None))[0]
    (said,) = curve_words(curve([point(1, -0.01), lucky, *(point(step, -0.01) for step in range(3, 7))], None))
    assert said.startswith("Averaging does not pay")


def test_a_last_quarter_without_any_difference_is_equal() -> None:
    said = curve_words(curve([point(None, 0.01)], {"value": 0.0, "low": 0.0, "high": 0.0}))
    assert "became equal, which may be chance" in said[1]


def test_it_says_that_averaging_pays_nowhere() -> None:
    (said,) = curve_words(curve([point(1, -0.01), point(2, 0.0)], None))
    assert said.startswith("Averaging does not pay: at no point")


@pytest.mark.parametrize(
    ("quarter", "told"),
    [
        ({"value": 0.02, "low": 0.01, "high": 0.03}, "going on with the training would pay."),
        ({"value": -0.02, "low": -0.03, "high": -0.01}, "going on with the training as it is would not pay."),
        ({"value": 0.01, "low": -0.01, "high": 0.03}, "which may be chance"),
    ],
)
def test_it_says_whether_going_on_would_pay(quarter: dict[str, float], told: str) -> None:
    said = curve_words(curve([point(None, 0.01)], quarter))
    assert said[1].startswith("From `step-3` to `step-4` the averaged model became")
    assert told in said[1]


def test_a_checkpoint_without_a_step_is_told_of_by_its_name() -> None:
    (said,) = curve_words(curve([point(None, 0.01), point(2, -0.01)], None))
    assert "after `step-None`" in said


def test_a_report_of_a_curve_draws_its_points_at_their_steps_and_has_no_model_to_load() -> None:
    made = report()
    names = [each["name"] for each in made["checkpoints"]]
    some = [
        {**point(each["step"], 0.01), "checkpoint": each["name"], "alone": 0.8, "alone_examples": 100,
         "average": 0.85, "average_examples": 100}
        for each in made["checkpoints"][1::2]
    ]  # fmt: skip
    merge_curve = curve(some, None) | {"words": ["Averaging still pays."]}
    assert 1 < len(some) < len(names)
    told = markdown({**made, "kind": "curve", "merge_curve": merge_curve})
    assert told.count("Averaging still pays.") == 2, "as the result, and beside the figure"
    assert "best average" in told
    assert "load_file" not in told
    assert "none is written" in told

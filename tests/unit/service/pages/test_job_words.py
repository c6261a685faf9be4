"""What the page of a job says of its result."""

from __future__ import annotations

from typing import Any

from ladle_service.pages.job import verdict
from tests.unit.client.answers import RESULT
from tests.unit.client.test_render import candidate

ROWS = candidate("best", 0.9, 0.4, 0.0), candidate("ema", 0.91, 0.3, 0.01), candidate("twa", 0.92, 0.3, 0.02)


def told(**changes: Any) -> str:
    return verdict(RESULT.model_copy(update={"candidates": ROWS, **changes}))


def test_the_verdict_says_that_its_interval_counts_the_choice() -> None:
    assert told(visible_gain=0.03) == (
        "Accuracy 92.0 % instead of 90.0 % of your best checkpoint "
        "(95 %, counting that the best of several was picked: +1.0 to +3.0 points)."
    )


def test_an_earlier_workers_interval_is_of_one_comparison_and_so_is_that_of_one_average() -> None:
    assert "counting" not in told()
    assert "counting" not in told(visible_gain=0.03, candidates=(ROWS[0], ROWS[2]))


def test_a_checkpoint_that_an_average_is_ahead_of_by_chance_is_told_so() -> None:
    assert told(method="best").startswith("No average beat your best checkpoint beyond chance, ")
    behind = candidate("twa", 0.8, 0.5, -0.1)
    assert told(method="best", candidates=(ROWS[0], behind)).startswith("No average beat your best checkpoint, ")

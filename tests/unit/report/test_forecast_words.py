"""A forecast in words, beside what came."""

from __future__ import annotations

from typing import Any

import pytest

from ladle_report import markdown, page
from ladle_report.forecast_words import beside_gain, expectation, remarks
from ladle_report.reading import read
from tests.unit.report.reports import report

RESULT = {"lower": 0.062, "low": 0.011, "high": 0.2, "goes_by": [], "error_points": 3.21, "covered": 0.7, "beyond": []}
MEAN = {
    "lower": -0.12,
    "low": -0.3,
    "high": 0.01,
    "goes_by": ["lead"],
    "error_points": 5.5,
    "covered": 0.8,
    "beyond": [],
}
FORECAST: dict[str, Any] = {
    "result": RESULT,
    "mean": MEAN,
    "sets": 54,
    "families": 8,
    "decayed": False,
    "gains_of_decayed": [-0.001, 0.004, 0.03],
    "features": {"slowing": 0.1},
}


@pytest.mark.parametrize(
    ("result", "mean", "told"),
    [
        (
            {},
            {},
            "Expect about 6.2 % lower loss than the best checkpoint has (between 1.1 % and 20 % lower; the median "
            "of all sets). The plain mean of all should have about 12 % higher loss (between 30 % higher and 1.0 % "
            "lower).",
        ),
        (
            {"lower": 0.004, "low": -0.01},
            {"goes_by": []},
            "Expect little: about 0.4 % lower loss than the best checkpoint has (between 1.0 % higher and 20 % lower; "
            "the median of all sets).",
        ),
        (
            {"lower": -0.004, "low": -0.03, "high": -0.001},
            {"goes_by": []},
            "Expect little: about 0.4 % higher loss than the best checkpoint has (between 0.1 % and 3.0 % higher; the "
            "median of all sets).",
        ),
    ],
)
def test_what_is_expected_is_a_sentence_or_two(result: dict[str, Any], mean: dict[str, Any], told: str) -> None:
    assert expectation({**FORECAST, "result": RESULT | result, "mean": MEAN | mean}) == told


def test_it_says_how_wrong_such_forecasts_were_and_where_it_knows_nothing() -> None:
    (plain,) = remarks(FORECAST)
    assert "fitted to 54 small sets of checkpoints on 8 kinds of data" in plain
    assert "wrong by 3.2 points on average for the result (the median of all sets), and by 5.5 for the plain" in plain
    assert "plain mean (by how far ahead the best of them is): 70 % and 80 % of them" in plain
    *_, beyond = remarks({**FORECAST, "mean": MEAN | {"beyond": ["lead"]}})
    assert "beyond all of them in how far ahead the best of them is, so take it with care" in beyond
    _, decayed = remarks({**FORECAST, "decayed": True})
    assert "had about 0.4 % lower loss in the median (between 0.1 % higher and 3.0 % lower)" in decayed


def with_losses(best: float, result: float, winner: str = "twa") -> dict[str, Any]:
    made = report(winner=winner) | {"forecast": FORECAST}
    for row in made["candidates"]:
        row["select"]["loss"] = result if row["method"] == winner else best
    return made


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (
            with_losses(0.5, 0.46),
            "On the held-out examples the result's loss is 8.0 % lower, within what was expected.",
        ),
        (with_losses(0.5, 0.51), "the result's loss is 2.0 % higher, outside of what was expected."),
        (with_losses(0.5, 0.5, "best"), "the result's loss is that of the best checkpoint, outside of what"),
    ],
)
def test_what_came_stands_beside_it_on_the_page_and_in_the_text(made: dict[str, Any], told: str) -> None:
    assert told in beside_gain(read(made))
    for text in (markdown(made), page(made)):
        assert told in text
        assert "The forecast was: Expect about 6.2 %" in text


def test_a_report_without_a_forecast_says_nothing_of_one() -> None:
    assert beside_gain(read(report())) == ""
    assert "orecast" not in markdown(report())

"""How sure a gain is, in the words of the page and the answer: from a report that says how its intervals were made."""

from __future__ import annotations

from typing import Any

import pytest

from ladle_report import answer, page
from ladle_report.reading import read
from ladle_report.reasons import reasons
from ladle_report.sections.candidates import choice_caveat
from ladle_report.sureness import needed_examples, ninety_five, rounded_up
from tests.unit.report.html_pages import parse
from tests.unit.report.reports import report

CHOICE = {
    "interval": "simultaneous",
    "confidence": 0.95,
    "averages": 28,
    "checkpoints": 6,
    "in_part": 2,
    "low": 2.0,
    "high": 2.9,
    "method": "twa",
    "visible_gain": 0.041,
    "examples_needed": 402,
}
SEEN = "With 260 held-out examples, a gain of 4.10 points is seen four times in five."
NEEDED = "To see one as large as the difference of `twa` takes about 410."


def counted(winner: str = "twa", *, low: float = -0.01, **changed: Any) -> dict[str, Any]:
    """A report whose intervals hold for all candidates at once; the winner's reaches down to `low`."""
    told = report(winner=winner)
    won = next(row for row in told["candidates"] if row["method"] == winner)
    won |= {"gain_low": low, "single_low": 0.013, "single_high": 0.053}
    told["gain"]["low"] = low
    return {**told, "choice": {**CHOICE, **changed}}


def test_the_answer_says_that_the_interval_counts_the_choice() -> None:
    assert "(95 %, counting that the best of 28 was picked: +1.0 to +5.3 points" in answer(counted(low=0.01))


def test_one_average_alone_was_picked_from_nothing() -> None:
    assert ninety_five(read(counted(averages=1))) == "95 %"


def test_what_may_be_chance_comes_with_the_examples_that_would_tell() -> None:
    assert needed_examples(read(counted())) == f"{SEEN} {NEEDED}"
    text = parse(page(counted())).whole_text
    assert "The interval includes zero, so this may be chance." in text
    assert "To see one as large as the difference of " in text


def test_what_has_been_seen_needs_no_more_examples() -> None:
    sure = counted(low=0.01, examples_needed=None)
    assert needed_examples(read(sure)) == SEEN
    assert "The interval includes zero" not in parse(page(sure)).whole_text


def test_where_nothing_was_better_the_reason_is_what_could_have_been_seen() -> None:
    told = counted("best", low=0.0)
    for row in told["candidates"][1:]:
        row.update(gain=-0.001, gain_low=-0.04, gain_high=0.04)
    assert f"{SEEN} {NEEDED}" in reasons(read({**told, "diagnosis": {}}))


def test_a_loss_has_its_own_unit() -> None:
    told = counted(visible_gain=0.0123)
    told["metric"] = {"name": "loss", "higher_is_better": False}
    assert "a gain of 0.0123 is seen" in needed_examples(read(told))


@pytest.mark.parametrize(("count", "told"), [(7, 7), (41, 41), (402, 410), (400, 400), (12_001, 13_000)])
def test_a_number_of_examples_is_an_estimate(count: int, told: int) -> None:
    assert rounded_up(count) == told


def test_the_caveat_counts_what_was_tried_and_has_the_winners_own_interval_beside() -> None:
    caveat = choice_caveat(read(counted()))
    assert "28 averages and 6 checkpoints were compared on the same examples" in caveat
    assert "That of the winner's comparison alone would be +1.3 to +5.3 points." in caveat
    assert "Bonferroni" not in caveat
    assert caveat in parse(page(counted())).whole_text


def test_a_best_checkpoint_has_no_interval_of_its_own() -> None:
    told = counted("best", low=0.0)
    for row in told["candidates"]:
        row.pop("single_low", None)
    assert "comparison alone" not in choice_caveat(read(told))


def test_a_report_of_an_earlier_version_says_nothing_of_all_this() -> None:
    told = read(report())
    assert ninety_five(told) == "95 %"
    assert needed_examples(told) == ""
    assert "Bonferroni" in choice_caveat(told)

"""What a report says: the answer, why nothing was better, the caveat on choosing, and all of it as Markdown."""

from __future__ import annotations

import re
from typing import Any

from ladle_report import answer, comparison, comparison_page, markdown, page
from ladle_report.reading import read
from ladle_report.reasons import reasons
from ladle_report.sections.candidates import choice_caveat
from tests.unit.report.html_pages import parse
from tests.unit.report.reports import report


def test_the_answer_has_both_values_the_interval_and_the_number_of_examples() -> None:
    told = report()
    told["gain"] = {"value": 0.033, "low": 0.012, "high": 0.073}
    assert answer(told) == (
        "Accuracy 90.0 % instead of 86.7 % of your best checkpoint (95 %: +1.2 to +7.3 points, 260 held-out examples)"
    )


def test_a_metric_that_is_better_when_lower_says_so() -> None:
    told = report()
    told["metric"] = {"name": "loss", "higher_is_better": False}
    told["gain"] = {"value": 0.02, "low": -0.01, "high": 0.05}
    assert answer(told).endswith("(95 %: 0.0100 higher to 0.0500 lower, 260 held-out examples)")


def test_an_equal_metric_is_told_by_its_loss() -> None:
    told = report()
    told["gain"] = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert answer(told).startswith("The same accuracy as your best checkpoint, with a lower loss: ")


def nothing_better(**changed: Any) -> dict[str, Any]:
    """A report in which the best checkpoint won, and all others were worse."""
    told = report(winner="best")
    for row in told["candidates"][1:]:
        row.update(gain=-0.02, gain_low=-0.03, gain_high=-0.01)
    return {**told, **changed}


def test_where_nothing_was_better_the_answer_says_so_and_why_that_may_be() -> None:
    told = nothing_better()
    assert answer(told) == "No average beat your best checkpoint: Accuracy 86.7 % on 260 held-out examples"
    found = " ".join(reasons(read(told)))
    assert "2 basins" in found
    assert "still improving" in found


def test_a_plain_average_that_is_worse_than_every_checkpoint_points_at_basins() -> None:
    told = nothing_better(diagnosis={})
    told["candidates"][1]["select"]["loss"] = 9.0
    assert any("several basins" in reason for reason in reasons(read(told)))


def test_differences_that_cannot_be_seen_are_told_with_their_size() -> None:
    told = nothing_better(diagnosis={})
    for row in told["candidates"][1:]:
        row.update(gain=-0.001, gain_low=-0.031, gain_high=0.029)
    assert any("no difference below 3.00 points can be told from chance" in reason for reason in reasons(read(told)))


def test_an_average_that_is_worse_on_one_set_says_on_which() -> None:
    told = nothing_better(diagnosis={})
    told["candidates"][3].update(gain=0.05, gain_low=0.01, gain_high=0.09, worse_on=["noisy"])
    assert "without being worse on some validation set" in answer(told)
    assert any("worse on `noisy`" in reason for reason in reasons(read(told)))


def test_where_the_metric_cannot_tell_the_loss_decides_and_the_words_say_so() -> None:
    decided = "By accuracy `twa` is ahead, but the difference may be chance, so the lower loss decided."
    told = report(winner="best")
    assert "No average beat your best checkpoint beyond chance: " in answer(told)
    assert decided in reasons(read(told))
    other = report(winner="twa-layerwise")
    assert decided in parse(page(other)).whole_text.replace(" twa ", " `twa` ")
    assert "decided" not in parse(page(report())).whole_text


def test_there_is_always_a_reason() -> None:
    told = nothing_better(diagnosis={})
    for each in told["checkpoints"]:
        each["select"] = None
    assert reasons(read(told))


def test_the_winner_of_several_has_a_caveat_with_a_wider_interval() -> None:
    told = report()
    told["gain"] = {"value": 0.033, "low": 0.013, "high": 0.053}
    # Of four: 0.02 * 2.498 / 1.960 = 0.0255.
    assert "+0.8 to +5.8 points: still better" in choice_caveat(read(told))
    told["gain"]["low"] = 0.001
    assert "no longer surely better" in choice_caveat(read(told))
    told["gain"]["low"] = -0.001
    assert "not surely better either" in choice_caveat(read(told))


def test_one_average_alone_was_not_chosen_among_several() -> None:
    told = report()
    told["candidates"] = [row for row in told["candidates"] if row["method"] in ("best", "twa")]
    assert choice_caveat(read(told)) == ""


def test_markdown_has_the_tables_and_foreign_names_as_text() -> None:
    told = report(names=["<img src=x>|", *(f"step-{i}" for i in range(5))])
    text = markdown(told)
    assert text.startswith("**Accuracy 90.0 %")
    assert "| candidate | accuracy | loss |" in text
    assert "`<img`" in text
    assert "<img" not in re.sub("`[^`]*`", "", text), "outside of code"


def test_two_results_are_compared_by_what_was_different() -> None:
    first, second = report(), report(K=4)
    second["settings"] = {**second["settings"], "metric": "loss", "last": 4}
    found = comparison(first, second, ("a", "b"))
    tables = {table.caption: table for section in found.sections for table in section.parts if hasattr(table, "rows")}
    assert ["last", "–", "4"] in [list(row) for row in tables["Settings that differ"].rows]  # noqa: RUF001  # a dash
    assert "step-600.safetensors" in [row[0] for row in tables["Inputs that differ"].rows]
    top = parse(comparison_page(first, second, ("a", "b")))
    assert len(list(top.all("figure"))) == 2


def test_values_of_other_examples_are_not_called_comparable() -> None:
    first, second = report(), report()
    alike = comparison(first, second, ("a", "b")).sections[0].parts[0]
    second["inputs"] = {"side_files": {}, "data": {"val_set": {"sha256": "other"}}}
    unlike = comparison(first, second, ("a", "b")).sections[0].parts[0]
    assert "can be compared" in str(alike)
    assert "compare the gains" in str(unlike)


def test_where_a_start_was_picked_the_report_says_which_and_what_came_of_it() -> None:
    told = report()
    losses = {"centre": 0.9, "best": 0.4, "cached-outputs": 0.3}
    told["details"] = {
        "twa": {"start": "cached-outputs", "fit_loss": losses, "examples": 256, "fell_back": False},
        "cached-outputs": {"examples": 256, "loss_of_outputs": 0.25, "loss_of_weights": 0.3},
    }
    text = markdown(told)
    assert "It started from cached-outputs, picked by the losses on the fit split (centre 0.9000, best 0.4000" in text
    assert "best average of the checkpoints' outputs is 0.2500, and that of the average of their weights" in text
    assert "Training made that worse" not in text
    told["details"]["twa"]["fell_back"] = True
    told["details"]["cached-outputs"]["loss_of_weights"] = None
    text = markdown(told)
    assert "Training made that worse, so it is the start itself." in text
    assert "with the same coefficients is not finite, on 256 examples" in text

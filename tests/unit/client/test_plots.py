"""The figures of a report in a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest

from ladle.cli.console import SafeConsole
from ladle.cli.plots import plots
from tests.hostile import HOSTILE, unsafe_in


def candidate(method: str, gain: float, **fields: Any) -> dict[str, Any]:
    interval = {} if method == "best" else {"gain_low": gain - 0.02, "gain_high": gain + 0.02}
    return {"method": method, "label": method, "select": {"accuracy": 0.9 + gain}, "gain": gain, **interval, **fields}


def report(*candidates: dict[str, Any], **fields: Any) -> dict[str, Any]:
    curve = fields.get("merge_curve", {"points": [{"step": 1}]})
    checkpoints = [{"name": f"c{index}", "step": point["step"]} for index, point in enumerate(curve["points"])]
    return {
        "candidates": candidates,
        "metric": {"name": "accuracy", "higher_is_better": True},
        "winner": "twa",
        "gain": {"value": 0.03},
        "splits": {"select": 260},
        "checkpoints": checkpoints,
        **fields,
    }


def curve(*points: tuple[int | None, float | None, float | None]) -> dict[str, Any]:
    told = [{"step": step, "alone": alone, "average": average} for step, alone, average in points]
    return {"metric": "accuracy", "points": told}


def drawn(of: dict[str, Any], width: int = 100, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    SafeConsole(file=file, width=width, force_terminal=True, color_system=None).print(plots(of))
    file.seek(0)
    return file.read()


THREE = candidate("best", 0.0), candidate("twa", 0.03), candidate("ema", -0.05)


def row_of(text: str, label: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(label))


def test_candidates_are_dots_with_intervals_the_best_on_top_and_right_is_better() -> None:
    text = drawn(report(*THREE))
    twa, best, ema = (row_of(text, label) for label in ("twa", "best", "ema"))
    assert text.index(twa) < text.index(best) < text.index(ema)
    assert ema.index("●") < best.index("◆") < twa.index("●")
    assert twa.index("├") < twa.index("●") < twa.index("┤")
    assert twa.rstrip().endswith("93.0 %")
    assert row_of(text, "    ").split()[0].startswith("-"), "an axis in points"


def test_only_what_was_evaluated_is_marked_on_the_curve() -> None:
    points = curve((100, 0.8, 0.8), (200, 0.82, None), (300, None, 0.9), (400, 0.84, 0.91))
    text = drawn(report(*THREE, merge_curve=points))
    body = text.partition("accuracy along the run")[2].partition("\n")[2]
    assert body.count("○") == 2, "the average of the first is itself, and lies over it"
    assert body.count("●") == 3
    assert "300" in body
    assert "90.0 %" in body


def test_checkpoints_without_steps_are_counted() -> None:
    text = drawn(report(*THREE, merge_curve=curve((None, 0.8, None), (None, 0.9, 0.85))))
    assert "number of the checkpoint" in text.splitlines()[-1]


@pytest.mark.parametrize("fields", [{}, {"merge_curve": curve((1, 0.9, 0.9))}])
def test_an_older_or_shorter_report_has_no_curve(fields: dict[str, Any]) -> None:
    assert "along the run" not in drawn(report(*THREE, **fields))


@pytest.mark.parametrize("width", [40, 60, 80, 132])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    long = candidate("ema", -0.05, label="ema of a checkpoint with a very long name, such as epoch=3-step=100.ckpt")
    text = drawn(report(*THREE[:2], long, merge_curve=curve((1, 0.8, 0.8), (2, 0.9, 0.85))), width)
    assert max(map(len, text.splitlines())) <= width


def test_a_terminal_without_unicode_gets_none() -> None:
    text = drawn(report(*THREE, merge_curve=curve((1, 0.8, 0.8), (2, 0.9, 0.85))), encoding="ascii")
    assert row_of(text, "twa").count("o") == 1


def test_equal_candidates_and_values_are_drawn_too() -> None:
    same = [candidate(method, 0.0) for method in ("best", "twa")]
    assert "twa" in drawn(report(*same, merge_curve=curve((1, 0.9, 0.9), (2, 0.9, 0.9))))


def test_a_hostile_label_stays_text() -> None:
    assert not unsafe_in(drawn(report(*THREE, candidate("last-k", 0.01, label=HOSTILE))))

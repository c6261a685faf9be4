"""The pictures beside a model card: the report's own drawings, as they look on a light page."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ladle_engine import average
from ladle_engine.pipeline.card_pictures import write_pictures
from ladle_engine.progress import ProgressEvent, Warned
from ladle_report import candidates_figure, pictures, style
from ladle_report.pictures import card_figures, png
from tests.hostile import HOSTILE, NOT_UTF8
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

ACCENT = tuple(bytes.fromhex(re.findall(r"--accent: #([0-9a-f]{6})", style())[0]))
"""The light one comes first."""
WHITE = (255, 255, 255)


def rows(label: str) -> list[dict[str, Any]]:
    best = {"method": "best", "label": "best", "select": {"accuracy": 0.9}, "gain": 0.0, "gain_low": 0, "gain_high": 0}
    other = {"method": "twa", "label": label, "select": {"accuracy": 0.95}, "gain": 0.05}
    return [best, {**other, "gain_low": 0.02, "gain_high": 0.08}]


def drawn(label: str) -> Image.Image:
    svg = candidates_figure(rows(label), metric="accuracy", winner="twa")
    return Image.open(io.BytesIO(png(svg))).convert("RGB")


def colours(image: Image.Image) -> set[Any]:
    return {colour for _, colour in image.getcolors(1 << 20) or []}


def made(tmp_path: Path) -> Path:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    average(tmp_path / "checkpoints", "data", output=tmp_path / "out", task=ToyTask(plain_net), method="uniform")
    return tmp_path / "out"


def test_a_picture_has_the_light_palette_and_letters_of_our_own_font() -> None:
    image = drawn("layerwise")
    assert ACCENT in colours(image), "the winner's dot"
    assert image.getpixel((0, 0)) == WHITE
    label = image.crop((0, 0, 400, 100))
    assert len(colours(label)) > 10, "letters, with their smooth edges"


def test_no_variable_of_the_style_stays_and_no_rule_of_the_dark_palette_does() -> None:
    light = pictures._light_style()
    assert "var(" not in light
    assert "@media" not in light
    assert set(re.findall(r"font-weight: (\d+)", light)) <= {str(weight) for weight in range(100, 1000, 100)}


@pytest.mark.parametrize(
    "label", [HOSTILE, NOT_UTF8, "</text></svg><script>alert(1)</script>", "\0\x1b\uffff", "模型 🥄"]
)
def test_names_are_text_in_a_picture_whatever_they_hold(label: str) -> None:
    assert ACCENT in colours(drawn(label))


def test_every_figure_of_the_card_is_a_file_that_the_report_knows(tmp_path: Path) -> None:
    out = made(tmp_path)
    report = json.loads((out / "report.json").read_text())
    names = [f"{figure.name}.png" for figure in card_figures(report)]
    assert names[0] == "candidates.png"
    assert set(names) == {path.name for path in out.glob("*.png")} == {n for n in report["files"] if n.endswith(".png")}
    card = (out / "README.md").read_text()
    assert re.findall(r"^!\[.+\]\((.+)\)$", card, re.MULTILINE) == names


def test_without_the_library_the_card_has_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladle_report.pictures.LIBRARY", "no_such_library")
    out = made(tmp_path)
    assert not list(out.glob("*.png"))
    assert "![" not in (out / "README.md").read_text()


class PanicException(BaseException):
    """As Rust raises it."""


@pytest.mark.parametrize("what", ["png", "card_figures"])
@pytest.mark.parametrize(
    "error", [ValueError("no such shape"), ZeroDivisionError("no such shape"), PanicException("no such shape")]
)
def test_a_picture_that_cannot_be_drawn_is_a_warning_and_no_lost_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, error: BaseException
) -> None:
    out = made(tmp_path)
    told: list[ProgressEvent] = []

    def fail(given: object) -> None:
        raise error

    monkeypatch.setattr(f"ladle_engine.pipeline.card_pictures.{what}", fail)
    assert write_pictures(tmp_path, json.loads((out / "report.json").read_text()), told.append) == []
    assert "no such shape" in next(event.message for event in told if isinstance(event, Warned))


def test_a_drawing_that_would_take_all_memory_is_refused_before_it_ends_the_process() -> None:
    with pytest.raises(ValueError, match="too large"):
        png(candidates_figure(rows("twa") * 10_000, metric="accuracy"))

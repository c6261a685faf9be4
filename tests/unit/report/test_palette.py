"""The palette: every colour in light and dark, with enough contrast, also for people who see fewer colours."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from ladle_report import style
from ladle_report.styles import static

VARIABLE = re.compile(r"--([\w-]+):\s*(#[0-9a-f]{6})")
LIGHT, DARK = (dict(VARIABLE.findall(part)) for part in style().split("@media", 1))
# Viénot, Brettel and Mollon 1999, for linear RGB: how red-blind and green-blind people see a colour.
BLIND = {
    "protan": ((0.1124, 0.8876, 0.0), (0.1124, 0.8876, 0.0), (0.0040, -0.0040, 1.0)),
    "deutan": ((0.2925, 0.7075, 0.0), (0.2925, 0.7075, 0.0), (-0.0223, 0.0223, 1.0)),
}
Rgb = tuple[float, float, float]


def linear(colour: str) -> Rgb:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares)
    return red, green, blue


def contrast(one: str, other: str) -> float:
    """As WCAG 2 counts it."""
    light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(linear, (one, other)))
    return (light[1] + 0.05) / (light[0] + 0.05)


def lab(rgb: Rgb) -> Rgb:
    r, g, b = rgb
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (max(t, 0.0) for t in xyz))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def seen(colour: str, kind: str) -> Rgb:
    rgb = linear(colour)
    red, green, blue = (sum(a * b for a, b in zip(row, rgb, strict=True)) for row in BLIND[kind])
    return lab((red, green, blue))


def test_light_and_dark_have_the_same_colours_and_every_one_that_is_used() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert set(re.findall(r"var\(--([\w-]+)\)", style() + static("report.css"))) <= LIGHT.keys()


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_have_enough_contrast(colours: dict[str, str]) -> None:
    for text in ("ink", "muted", "link", "good", "warn", "bad"):
        for ground in ("surface", "panel"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for ground in ("accent-soft", "warn-soft"):
        assert contrast(colours["ink"], colours[ground]) >= 4.5
    for line in ("accent", *(f"c{number}" for number in (1, 2, 3, 4, 5, 7, 8))):
        assert contrast(colours[line], colours["surface"]) >= 4.5, "its name beside it has the same colour"


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_numbers_on_cells_can_be_read(colours: dict[str, str]) -> None:
    grounds = {
        "on-far": ("n5", "n6", "p5", "p6"),
        "on-mid": ("n4", "p4"),
        "ink": ("n1", "n2", "n3", "z", "p1", "p2", "p3"),
        "on-low": ("s0", "s1", "s2", "s3"),
        "on-middle": ("s4", "s5"),
        "on-high": ("s6", "s7", "s8", "s9"),
    }
    for text, cells in grounds.items():
        for cell in cells:
            assert contrast(colours[text], colours[cell]) >= 4.5, (text, cell)


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_that_stand_for_something_are_told_apart(colours: dict[str, str], kind: str) -> None:
    """A difference of 2.3 in CIELAB is just noticed. So that lines are followed too, it is much more."""
    lines = [seen(colours[name], kind) for name in ("c1", "c2", "c3", "c4", "c5", "c7")]
    signs = [seen(colours[name], kind) for name in ("n3", "z", "p3")]
    for one, other in [*combinations(lines, 2), *combinations(signs, 2)]:
        assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 15

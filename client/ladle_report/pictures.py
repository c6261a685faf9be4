"""A report's drawings as PNG, for places that show no SVG, such as a model card.

Rendered by resvg, which is an optional library: without it there are no pictures.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from ladle_report.model import Figure
from ladle_report.reading import read
from ladle_report.sections import sections_of
from ladle_report.styles import STATIC, style

SHOWN = ("candidates", "merge-curve", "weights", "layers", "plane")
"""Figures that a card shows, where the report has them."""
LIBRARY = "resvg_py"
FONT = "Roboto"
SCALE = 2
"""Pixels per unit of a drawing, for sharp screens."""
MOST_UNITS = 10_000
"""Of a side: resvg ends the whole process where it gets no memory for the pixels."""
_SIZE = re.compile(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"')
_MEDIA = re.compile(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}")
_PALETTE = re.compile(r":root\s*\{[^{}]*\}")
_VARIABLE = re.compile(r"--([\w-]+):\s*([^;}]+)")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def can_draw() -> bool:
    """Whether the library is there."""
    return importlib.util.find_spec(LIBRARY) is not None


def card_figures(report: Mapping[str, Any]) -> Sequence[Figure]:
    """The drawings of a report that a card shows, in its order."""
    figures = {figure.name: figure for section in sections_of(read(report)) for figure in section.figures}
    return [figures[name] for name in SHOWN if name in figures and figures[name].picture.startswith("<svg")]


def png(svg: str) -> bytes:
    """A drawing as it looks on a light page. Raises ImportError without the library, and ValueError for what cannot
    be drawn."""
    size = _SIZE.search(svg)
    if size is None or max(map(float, size.groups())) > MOST_UNITS:
        raise ValueError("the drawing is too large")
    resvg = importlib.import_module(LIBRARY)
    return bytes(
        resvg.svg_to_bytes(
            # A name may have characters that HTML takes, but XML does not.
            svg_string=_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", svg),
            style_sheet=_light_style(),
            background="#ffffff",
            zoom=SCALE,
            # The machine's own fonts are for letters that ours lacks.
            font_files=[str(STATIC / "fonts" / f"{FONT}-{weight}.ttf") for weight in ("Regular", "Bold")],
            font_family=FONT,
            sans_serif_family=FONT,
        )
    )


def standalone(svg: str) -> str:
    """A drawing as a file of its own, which brings its style and a white ground."""
    start, rest = svg.split(">", 1)
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f"{start}><style>{_light_style()}</style>{ground}{_NOT_XML.sub(chr(0xFFFD), rest)}"


@cache
def _light_style() -> str:
    """The drawings' style with the values of the light palette and our font: resvg knows no variables."""
    light = _MEDIA.sub("", style())
    values = {name: value.strip() for name, value in _VARIABLE.findall(light)}
    rules = re.sub(r"var\(--([\w-]+)\)", lambda found: values[found[1]], _PALETTE.sub("", light))
    rules = re.sub(r"font-weight: *(\d+)", lambda found: f"font-weight: {round(int(found[1]), -2)}", rules)
    return f"{rules}\n.drawing {{ font-family: {FONT}, sans-serif; font-size: 13px; }}"

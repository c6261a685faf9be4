"""A drawing of characters: lines of braille dots, and marks on them. It is text, so a console can show it anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.text import Text

ACROSS, DOWN = 2, 4
"""Braille dots in one character."""
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot, by row and column."""
EMPTY = 0x2800


@dataclass
class Canvas:
    """`width` x `height` characters. Positions are in characters from the upper left corner, and may be fractions."""

    width: int
    height: int
    ascii_only: bool = False
    _dots: dict[tuple[int, int], int] = field(default_factory=dict)
    _marks: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict)

    def line(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """A thin line."""
        steps = max(1, round(max(abs(x1 - x0) * ACROSS, abs(y1 - y0) * DOWN)))
        for step in range(steps + 1):
            self._dot(x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps)

    def mark(self, x: float, y: float, sign: str, style: str = "") -> None:
        """One character, over every line."""
        if 0 <= x < self.width and 0 <= y < self.height:
            self._marks[int(x), int(y)] = sign, style

    def row(self, y: int) -> Text:
        """One line of text."""
        return Text.assemble(*(self._character(x, y) for x in range(self.width)))

    def _dot(self, x: float, y: float) -> None:
        if 0 <= x < self.width and 0 <= y < self.height:
            bit = DOTS[int(y % 1 * DOWN)][int(x % 1 * ACROSS)]
            self._dots[int(x), int(y)] = self._dots.get((int(x), int(y)), 0) | bit

    def _character(self, x: int, y: int) -> tuple[str, str]:
        if (x, y) in self._marks:
            return self._marks[x, y]
        if (x, y) not in self._dots:
            return " ", ""
        return ("." if self.ascii_only else chr(EMPTY + self._dots[x, y])), "dim"

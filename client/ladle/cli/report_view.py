"""A comparison in a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table as Shown
from rich.text import Text

from ladle_report.comparing import Comparison
from ladle_report.model import Figure, Part, Remark, Section, Table

MOST_ROWS = 40


def comparison_view(found: Comparison) -> RenderableType:
    """The same tables as on the page."""
    parts: list[RenderableType] = [Text(found.answer, "bold"), ""]
    for section in found.sections:
        parts += [each for part in section.parts for each in _part(section, part)]
    return Group(*parts[:-1])


def _part(section: Section, part: Part) -> list[RenderableType]:
    match part:
        case Figure():
            return [_table(part.table), ""]
        case Table():
            return [_table(part), ""]
        case Remark():
            return [Text(part.text), ""]
        case str():
            return [Text(part), ""]
        case _:
            return []


def _table(table: Table) -> RenderableType:
    shown = Shown(box=None, pad_edge=False, header_style="dim")
    for number, head in enumerate(table.heads):
        shown.add_column(Text(head), justify="right" if number else "left", overflow="fold")
    for row in table.rows[:MOST_ROWS]:
        shown.add_row(*map(Text, row))
    more = len(table.rows) - MOST_ROWS
    note = table.note or (f"{more:,} more rows are on the page that `--output` writes." if more > 0 else "")
    return Group(Text(table.caption, "bold"), shown, *([Text(note, "dim")] if note else []))

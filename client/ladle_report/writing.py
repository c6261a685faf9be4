"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ladle_report.limits import spread
from ladle_report.markdown_text import cell, words
from ladle_report.model import Code, Facts, Figure, Part, Remark, Section, Table
from ladle_report.numbers import NOTHING
from ladle_report.reading import Report, read
from ladle_report.sections import sections_of
from ladle_report.verdict import answer_of

MOST_ROWS = 12
MOST_COLUMNS = 7
"""Wider tables are matrices, which nobody reads as text."""
PLAIN = {"---": "---", NOTHING: "-", "": " "}
"""Cells that are no words."""
LEFT_OUT = ("reproduce",)
"""Sections that belong to the page and not into a chat."""


def markdown(report: Mapping[str, Any], *, folder: str | None = None) -> str:
    """The report for an issue, a chat or a pull request. Nothing in it can be more than text. Raises `NotAReport`."""
    found = read(report, folder=folder)
    return markdown_of(found, sections_of(found))


def markdown_of(report: Report, sections: Sequence[Section]) -> str:
    """The same of one that has been read."""
    return markdown_text(answer_of(report), sections)


def markdown_text(answer: str, sections: Sequence[Section]) -> str:
    """Sections below an answer."""
    lines = [f"**{words(answer)}**", ""]
    for section in sections:
        if section.name not in LEFT_OUT:
            lines += [f"## {section.title}", "", *(line for part in section.parts for line in _lines(part))]
    return "\n".join(lines).rstrip() + "\n"


def _lines(part: Part) -> list[str]:
    match part:
        case Figure():
            return _table(part.table)
        case Table():
            return _table(part)
        case Facts():
            return [*(f"- {words(name)}: {words(value)}" for name, value in part.rows), ""] if part.rows else []
        case Code():
            return [f"{words(part.title)}:", "", *_fenced(part), ""]
        case Remark():
            return [f"> {words(part.text)}", ""]
        case _:
            return [words(part), ""]


def _fenced(part: Code) -> list[str]:
    """With a fence that is in no line of it."""
    fence = "```"
    while fence in part.text:
        fence += "`"
    return [f"{fence}{part.language}", part.text, fence]


def _table(table: Table) -> list[str]:
    if len(table.heads) > MOST_COLUMNS or not table.rows:
        return []
    kept = [table.rows[index] for index in spread(len(table.rows), MOST_ROWS)]
    rows = [table.heads, ["---"] * len(table.heads), *kept]
    told = [f"| {' | '.join(PLAIN.get(entry) or cell(entry) for entry in row)} |" for row in rows]
    caption = f"{words(table.caption)}" + (
        f" ({len(kept)} of {len(table.rows)} rows)" if len(kept) < len(table.rows) else ""
    )
    return [f"{caption}:", "", *told, ""]

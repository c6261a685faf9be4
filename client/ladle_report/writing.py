"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladle_report.markdown_text import words
from ladle_report.verdict import answer


def markdown(report: Mapping[str, Any]) -> str:
    """The report for an issue, a chat or a pull request. Nothing in it can be more than text."""
    return f"**{words(answer(report))}**\n"

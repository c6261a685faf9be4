"""The report of a job, for people: its `report.json` as one page, as Markdown, or as one sentence.

Pure Python: no torch, no numpy, no network. The command, the dashboard and the engine share it.
"""

from ladle_report.candidates import candidates_figure
from ladle_report.comparing import comparison
from ladle_report.pages import PAGE_FILE, comparison_page, content_security_policy, page
from ladle_report.reading import NotAReport
from ladle_report.styles import style
from ladle_report.verdict import answer
from ladle_report.writing import markdown

__all__ = [
    "PAGE_FILE",
    "NotAReport",
    "answer",
    "candidates_figure",
    "comparison",
    "comparison_page",
    "content_security_policy",
    "markdown",
    "page",
    "style",
]

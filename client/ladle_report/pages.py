"""A report as one HTML page, which loads nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ladle_report.comparing import comparison
from ladle_report.limits import MOST_BYTES, SMALLER
from ladle_report.model import Code, Facts, Figure, Remark, Section, Table
from ladle_report.reading import Report, read
from ladle_report.run_names import run_of
from ladle_report.sections import sections_of
from ladle_report.sections.outcome import headline
from ladle_report.styles import source_hash, static, style
from ladle_report.verdict import answer_of
from ladle_report.writing import markdown_of, markdown_text

PAGE_FILE = "report.html"
_CODE = re.compile(r"`([^`]+)`")


def page(report: Mapping[str, Any], *, folder: str | None = None) -> str:
    """The whole page of a `report.json`. It is one file that needs no network, below 400 kB.

    `folder` is where the result is, for a page that is not in it. Raises `NotAReport`.
    """
    found = read(report, folder=folder)
    for limits in SMALLER:
        text = _page(replace(found, limits=limits))
        if len(text.encode()) <= MOST_BYTES:
            break
    return text


def comparison_page(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> str:
    """Two results side by side, as a page like that of one. Raises `NotAReport`."""
    found = comparison(first, second, names)
    markdown = markdown_text(found.answer, found.sections)
    return _render("Ladle comparison", found.title, found.answer, found.headline, found.sections, markdown)


def _page(report: Report) -> str:
    sections, answer = sections_of(report), answer_of(report)
    return _render("Ladle report", run_name(report), answer, headline(report), sections, markdown_of(report, sections))


def _render(
    kind: str,
    title: str,
    answer: str,
    numbers: Sequence[tuple[str, str, str]],
    sections: Sequence[Section],
    markdown: str,
) -> str:
    return (
        _environment()
        .get_template("report.html")
        .render(
            policy=content_security_policy(),
            css=_css(),
            script=Markup(static("report.js")),  # noqa: S704  # ours
            kind=kind,
            title=title,
            answer=answer,
            headline=numbers,
            sections=sections,
            data=_data(answer, sections, markdown),
        )
    )


def run_name(report: Report) -> str:
    """What the folder of the checkpoints is called."""
    folders = report.part("settings").get("ckpt_dir")
    first = folders[0] if isinstance(folders, list) and folders else folders
    return (run_of(first) if isinstance(first, str) else "") or str(report.json["task"])


def _data(answer: str, sections: Sequence[Section], markdown: str) -> Markup:
    """Everything that is drawn, and the Markdown, as JSON that cannot end its own element."""
    figures = {
        figure.name: {"title": figure.title, **figure.data} for section in sections for figure in section.figures
    }
    data = {"answer": answer, "figures": figures, "markdown": markdown}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # noqa: S704  # nothing in it can end a script element


def content_security_policy() -> str:
    """What the page says of itself, for those who serve it: nothing but its own style and script."""
    return (
        f"default-src 'none'; style-src {source_hash(_css())}; script-src {source_hash(static('report.js'))}; "
        "base-uri 'none'; form-action 'none'"
    )


def _css() -> Markup:
    return Markup(style() + static("report.css"))  # noqa: S704  # ours


def with_code(text: str) -> Markup:
    """Words in which what stands in backticks is code."""
    parts = [
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(_CODE.split(text))
    ]
    return Markup("").join(parts)


KINDS = {Figure: "figure", Table: "table", Code: "code", Facts: "facts", Remark: "remark", str: "paragraph"}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ladle_report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"words": with_code, "kind": lambda part: KINDS[type(part)]}
    return environment

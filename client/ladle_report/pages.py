"""A report as one HTML page, which loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ladle_report.sections import sections_of
from ladle_report.styles import source_hash, static, style
from ladle_report.verdict import answer

PAGE_FILE = "report.html"


def page(report: Mapping[str, Any]) -> str:
    """The whole page of a `report.json`. It is one file that needs no network, below 400 kB."""
    return (
        _environment()
        .get_template("report.html")
        .render(
            policy=content_security_policy(),
            title="Ladle report",
            css=Markup(_css()),  # noqa: S704  # ours
            answer=answer(report),
            sections=sections_of(report),
        )
    )


def content_security_policy() -> str:
    """What the page says of itself, for those who serve it: nothing but its own style and script."""
    return (
        f"default-src 'none'; style-src {source_hash(_css())}; script-src {source_hash(static('report.js'))}; "
        "base-uri 'none'; form-action 'none'"
    )


def _css() -> str:
    return style() + static("report.css")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("ladle_report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

"""The eight sections of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladle_report.candidates import candidates_figure
from ladle_report.model import Figure, Section, Table


def sections_of(report: Mapping[str, Any]) -> list[Section]:
    """In the order of the page."""
    picture = candidates_figure(report["candidates"], metric=report["metric"]["name"], winner=report["winner"])
    table = Table(caption="Candidates", heads=["candidate"], rows=[])
    figure = Figure(name="candidates", title="Candidates", reading="", picture=picture, table=table, data={})
    return [Section(name="candidates", title="Candidates", parts=[figure])]

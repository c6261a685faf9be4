"""The eight sections of a report."""

from __future__ import annotations

from ladle_report.model import Section
from ladle_report.reading import Report
from ladle_report.sections.basins import basins_section
from ladle_report.sections.candidates import candidates_section
from ladle_report.sections.coefficients import coefficients_section
from ladle_report.sections.merge_curve import merge_curve_section
from ladle_report.sections.outcome import outcome_section
from ladle_report.sections.reproduce import reproduce_section
from ladle_report.sections.tensors import tensors_section
from ladle_report.sections.training import training_section

MAKERS = (
    outcome_section,
    candidates_section,
    merge_curve_section,
    coefficients_section,
    basins_section,
    training_section,
    tensors_section,
    reproduce_section,
)


def sections_of(report: Report) -> list[Section]:
    """In the order of the page."""
    return [section for make in MAKERS if (section := make(report)) is not None]

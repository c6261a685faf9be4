"""The report of a result, opened from a disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from ladle_report import comparison_page, page
from tests.browser.pages import Visit, visiting
from tests.unit.report.reports import report


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Visit]:
    """The page of a report with everything in it."""
    (tmp_path / "report.html").write_text(page(report(8, 4)))
    (tmp_path / "comparison.html").write_text(comparison_page(report(8, 4), report(6, 4), ("first", "second")))
    with visiting(chromium, tmp_path.as_uri()) as visit:
        visit.open("/report.html")
        yield visit
        assert not visit.complaints


@pytest.mark.slow
def test_a_report_from_a_disk_is_accessible_and_fits_a_phone(opened: Visit) -> None:
    opened.check_accessibility()
    opened.check_phone_width()
    opened.open("/comparison.html")
    opened.check_accessibility()
    opened.check_phone_width()


@pytest.mark.slow
def test_every_table_is_accessible_when_it_is_open(opened: Visit) -> None:
    opened.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert opened.page.locator("figure table:visible").count() > 10
    opened.check_accessibility()


def test_nothing_but_the_file_itself_is_asked_for(opened: Visit) -> None:
    asked: list[str] = []
    opened.page.on("request", lambda request: asked.append(request.url))
    opened.page.reload()
    assert asked == [opened.page.url]


def test_the_report_is_copied_as_markdown(opened: Visit) -> None:
    opened.page.get_by_role("button", name="Copy as Markdown").click()
    expect(opened.page.get_by_role("status")).to_have_text("Copied.")
    opened.page.evaluate("document.body.append(document.createElement('textarea'))")
    area = opened.page.locator("textarea")
    area.focus()
    area.press("Control+V")
    expect(area).to_have_value(re.compile(r"^\*\*Accuracy 90\.8 % instead of"))


def test_the_report_prints_to_a4(opened: Visit) -> None:
    printed = opened.page.pdf(prefer_css_page_size=True)
    boxes = {
        tuple(map(round, map(float, box))) for box in re.findall(rb"MediaBox \[(\S+) (\S+) (\S+) (\S+)\]", printed)
    }
    assert boxes == {(0, 0, 595, 842)}

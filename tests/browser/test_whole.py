"""From `ladle up --open` to the report of a real job, in a browser."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser as ChromiumBrowser
from playwright.sync_api import expect

from tests.browser.pages import visiting
from tests.e2e.test_whole import LADLE, environment, home  # noqa: F401  # a fixture
from tests.polling import DEADLINE_S, until


@pytest.fixture
def link(home: Path, tmp_path: Path) -> Iterator[str]:  # noqa: F811
    """What `ladle up --open` gives to the browser."""
    browser, given = tmp_path / "browser", tmp_path / "link"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {given}.part && mv {given}.part {given}\n')
    browser.chmod(0o755)
    variables = {**environment(home), "BROWSER": str(browser)}
    process = subprocess.Popen(
        [LADLE, "up", "--port", "0", "--open"],
        cwd=home,
        env=variables,
        stdout=subprocess.DEVNULL,
    )
    try:
        until(given.exists, what="the browser to be started")
        yield given.read_text()
    finally:
        process.terminate()
        process.wait(timeout=DEADLINE_S)


def test_a_browser_opens_logged_in_and_watches_a_real_job_up_to_its_report(
    chromium: ChromiumBrowser,
    home: Path,  # noqa: F811
    link: str,
) -> None:
    url = link.partition("/login#")[0]
    with visiting(chromium, url) as visit:
        page = visit.page
        page.goto(link)
        page.wait_for_url(f"{url}/")
        subprocess.run(
            [LADLE, "submit", "checkpoints", "val.npz", "--method", "twa", "--method-option", "steps=30"],
            cwd=home,
            env=environment(home),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        page.locator("td.job a").click()
        expect(page.locator("#summary")).to_contain_text("succeeded", timeout=DEADLINE_S * 1000)
        expect(page.locator("#curve-words")).to_contain_text("twa: ")
        expect(page.locator("#stages")).to_contain_text("Verify the model")
        page.get_by_role("button", name="Report").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("best checkpoint")
        assert page.evaluate("window.origin") == "null"
    # The code that opened the browser is spent.
    with visiting(chromium, url) as other:
        other.page.goto(link)
        expect(other.page.get_by_role("alert")).to_contain_text("no token of this service")

"""What tests do in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.polling import SOON_S

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
PHONE = {"width": 375, "height": 740}
DESK = {"width": 1280, "height": 900}
expect.set_options(timeout=SOON_S * 1000)
BAD = ("serious", "critical")


@contextmanager
def launched() -> Iterator[Browser]:
    """Debian's Chromium. Where there is none, the test is skipped."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium fonts-dejavu-core")
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        yield browser


@dataclass
class Visit:
    """A window of its own: nobody is logged in."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    """What the page wrote into the console as an error, such as a script that the policy forbids."""

    def open(self, path: str = "/") -> Page:
        self.page.goto(self.url + path)
        return self.page

    def log_in(self, name: str) -> Page:
        """With the token of one of `conftest.TOKENS`."""
        page = self.open("/login")
        page.get_by_label("Token").fill(f"{name}-token")
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(self.url + "/")
        return page

    def check_accessibility(self) -> None:
        """axe-core finds nothing serious, in light and in dark."""
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # a literal
            found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
            bad = [
                f"{each['id']}: {node['target']} {node['failureSummary']}"
                for each in found
                if each["impact"] in BAD
                for node in each["nodes"]
            ]
            assert not bad, f"{self.page.url} in {scheme}:\n" + "\n".join(bad)

    def check_phone_width(self) -> None:
        """Nothing has to be scrolled sideways."""
        self.page.set_viewport_size(PHONE)  # type: ignore[arg-type]  # the same keys
        wide, window = self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= window, f"{self.page.url} is {wide} pixels wide on a phone of {window}"
        self.page.set_viewport_size(DESK)  # type: ignore[arg-type]


@contextmanager
def visiting(chromium: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A window that fails the test if a page broke a rule of its own policy, or its script failed."""
    context = chromium.new_context(viewport=DESK, reduced_motion="reduce", **options)  # type: ignore[arg-type]
    context.set_default_timeout(SOON_S * 1000)
    made = Visit(context.new_page(), url)
    made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
    made.page.on(
        "console", lambda message: made.complaints.append(message.text) if "Security Policy" in message.text else None
    )
    yield made
    context.close()
    assert not made.complaints

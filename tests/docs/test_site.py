"""The documentation site: it builds without a warning, needs no network, and has every page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs.site.pages import CONTENTS, contents
from tests.browser.pages import launched
from tests.docs.snippets import REPOSITORY
from tests.polling import DEADLINE_S

pytestmark = pytest.mark.slow

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
"""Element -> the attribute whose address a browser fetches by itself."""
FETCHED_LINKS = {"stylesheet", "preload", "prefetch", "icon", "shortcut icon", "preconnect", "dns-prefetch", "manifest"}


class Fetched(HTMLParser):
    """Collects the addresses that a browser asks for when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in LOADS:
            self.addresses.append(values.get(LOADS[tag], ""))
        if tag == "link" and values.get("rel", "") in FETCHED_LINKS:
            self.addresses.append(values.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once, by the command of `make docs`."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "docs.site.build", str(folder)], cwd=REPOSITORY, capture_output=True, text=True,
        timeout=3 * DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder / "html"


def test_no_page_asks_for_anything_outside_the_site(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 100
    for page in pages:
        reader = Fetched()
        reader.feed(page.read_text())
        assert not [address for address in reader.addresses if re.match(r"(https?:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//", style.read_text()), style


def test_every_page_of_the_contents_and_of_the_code_is_there(site: Path) -> None:
    for page in (page for section in contents() for page in section.pages):
        assert (site / page.path).with_suffix(".html").exists(), page.path
    generated = ("rest-api", "commands", "client-api", "engine-api")
    texts = {name: re.sub(r"<[^>]+>", "", (site / f"docs/{name}.html").read_text()) for name in generated}
    assert "POST /v1/jobs" in texts["rest-api"]
    assert "ladle node drain" in texts["commands"]
    assert "Job.result" in texts["client-api"]
    assert "combine_checkpoints" in texts["engine-api"]


def test_the_search_works_from_the_disk_and_finds_words_of_the_pages(site: Path) -> None:
    """The index is a script, which a browser loads from `file://` too."""
    text = (site / "searchindex.js").read_text()
    index = json.loads(re.fullmatch(r"Search\.setIndex\((.*)\)", text.strip(), re.DOTALL)[1])  # type: ignore[index]
    of_soup = index["terms"]["soup"]
    found = {index["docnames"][number] for number in (of_soup if isinstance(of_soup, list) else [of_soup])}
    assert "docs/methods" in found


def test_a_browser_finds_words_in_the_site_from_the_disk(site: Path) -> None:
    asked: list[str] = []
    with launched() as browser:
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{(site / 'search.html').as_uri()}?q=soup")
        page.locator("ul.search a", has_text="greedy-soup").first.wait_for(timeout=1000 * DEADLINE_S)
    assert asked
    assert not [address for address in asked if not address.startswith("file:")]


def test_llms_txt_names_every_page_with_a_copy_of_its_text(site: Path) -> None:
    listed = re.findall(r"^- \[.+?\]\((\S+)\): \S", (site / "llms.txt").read_text(), re.MULTILINE)
    assert len(listed) > 40
    assert all((site / name).exists() for name in listed)
    assert (site / "llms.txt").read_text().startswith("# ")
    whole = (site / "llms-full.txt").read_text()
    assert "# Methods" in whole
    assert "# Errors: cause and cure" in whole


def test_every_page_is_in_the_contents_once() -> None:
    paths = [page.path for section in contents() for page in section.pages]
    assert len(paths) == len(set(paths))
    for pattern in ("*.md", "how-to/*.md", "understand/*.md", "notebooks/*.ipynb"):
        for path in (REPOSITORY / "docs").glob(pattern):
            assert path == CONTENTS or path.relative_to(REPOSITORY).as_posix() in paths, path.name

"""What pages are made of: files that browsers may keep, and a policy that lets nothing else in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ladle_service.pages.static import FILES, FOLDER, static_url
from ladle_service.pages.templates import TEMPLATES
from tests.unit.service.fakes import Service

RunAsync = Callable[[Coroutine[Any, Any, None]], None]


def test_a_file_is_kept_under_its_own_hash_and_asked_for_again_under_another(
    service: Service, run_async: RunAsync
) -> None:
    async def use() -> None:
        async with service.client() as client:
            first = await client.get(static_url("app.js"))
            assert "immutable" in first.headers["cache-control"]
            assert first.headers["content-type"].startswith("text/javascript")
            of_another_version = await client.get("/static/0000000000000000/app.js")
            assert of_another_version.headers["cache-control"] == "no-cache"
            assert of_another_version.content == first.content
            same = await client.get(static_url("app.js"), headers={"If-None-Match": first.headers["etag"]})
            assert (same.status_code, same.content) == (304, b"")
            for path in ("/static/x/../../auth.py", "/static/x/%2e%2e/__init__.py", "/static/x//etc/passwd"):
                assert (await client.get(path)).status_code == 404

    run_async(use())


def test_a_page_has_no_script_or_style_of_its_own_and_loads_nothing_from_elsewhere(
    service: Service, run_async: RunAsync
) -> None:
    async def use() -> None:
        async with service.client() as client:
            answer = await client.get("/", headers={"Accept": "text/html"})
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"

    run_async(use())
    for path in TEMPLATES.glob("*.html"):
        text = path.read_text()
        assert not re.search(r"<style|style=|\son\w+=|<script(?! src=)|javascript:", text), path.name
        assert not re.search(r'(?:src|action)="https?://', text), path.name


def test_no_template_trusts_what_it_shows() -> None:
    assert len(list(TEMPLATES.glob("*.html"))) > 5
    for path in TEMPLATES.glob("*.html"):
        assert not re.search(r"\|\s*safe|autoescape", path.read_text()), path.name


def test_every_file_of_others_has_its_licence_and_version_beside_it() -> None:
    vendor = FOLDER / "vendor"
    told = (vendor / "README.md").read_text()
    files = [path.name for path in vendor.iterdir() if path.suffix in (".js", ".css")]
    assert len(files) >= 3
    for name in files:
        assert f"| `{name}` | `{hashlib.sha256((vendor / name).read_bytes()).hexdigest()}` |" in told
        assert list(vendor.glob(f"{name.partition('.')[0]}.LICENSE*")), name


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.endswith(".js") and "/" not in name))
def test_our_scripts_are_short_enough_to_be_read(name: str) -> None:
    lines = (FOLDER / name).read_text().splitlines()
    assert len(lines) <= 300
    assert max(map(len, lines)) <= 180


def test_nothing_of_the_folder_is_left_out() -> None:
    there = {path.relative_to(FOLDER).as_posix() for path in Path(FOLDER).rglob("*") if path.is_file()}
    assert there | {"ladle.css"} == set(FILES)

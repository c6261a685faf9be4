"""HTTP servers: files, listings, ranges, and where a server must not lead."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ladle_engine import EngineError, combine_checkpoints
from ladle_engine.far_urls import parse_url
from ladle_engine.progress import ignore
from ladle_engine.storage.far.door import FarSettings, opened_mirror
from ladle_engine.storage.far.http_guard import may_reach
from tests.builders import make_checkpoints
from tests.far_servers import Folder, http_folder


@pytest.fixture
def site(tmp_path: Path) -> Folder:
    make_checkpoints(tmp_path / "site" / "runs" / "a run")
    return Folder(tmp_path / "site")


@pytest.mark.parametrize("with_ranges", [True, False])
def test_a_listed_folder_is_averaged_like_a_local_one(
    site: Folder, tmp_path: Path, cache: Path, with_ranges: bool
) -> None:
    site.with_ranges = with_ranges
    combine_checkpoints(site.path / "runs" / "a run", output=tmp_path / "near")
    with http_folder(site) as url:
        combine_checkpoints(f"{url}/runs", output=tmp_path / "far")
    near, far = (load_file(tmp_path / name / "model.safetensors") for name in ("near", "far"))
    assert all(torch.equal(near[name], far[name]) for name in near)


def test_a_page_that_is_replaced_meanwhile_ends_the_job(site: Folder, tmp_path: Path, cache: Path) -> None:
    path = site.path / "runs" / "a run" / "epoch-1.safetensors"

    def replace_it(event: object) -> None:
        if getattr(event, "stage", "") == "verify":
            path.write_bytes((path.parent / "epoch-2.safetensors").read_bytes())

    with http_folder(site) as url, pytest.raises(EngineError, match="was replaced") as caught:
        combine_checkpoints(f"{url}/runs/a run", output=tmp_path / "out", progress=replace_it)
    assert caught.value.code == "inputs-changed"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/x",
        "http://[::1]:80/x",
        "http://[::ffff:169.254.169.254]/x",
        "http://2852039166/x",
        "http://0.0.0.0/x",
        "http://100.100.100.200/x",
        "http://[fd00:ec2::254]/x",
    ],
)
def test_a_server_leads_to_no_private_address(site: Folder, tmp_path: Path, cache: Path, target: str) -> None:
    site.redirects["/runs/val.npz"] = target
    started = time.monotonic()
    with http_folder(site) as url, pytest.raises(EngineError) as caught:
        combine_checkpoints(f"{url}/runs/val.npz", output=tmp_path / "out")
    assert caught.value.code in ("path-not-allowed", "unreadable-input"), caught.value
    assert "is not a public address" in caught.value.message or "2852039166" in target
    # It was not even tried.
    assert time.monotonic() - started < 15


def test_a_name_that_resolves_to_a_private_address_is_refused_unless_its_network_is_allowed(
    site: Folder, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolved(self: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, object]]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr("aiohttp.resolver.ThreadedResolver.resolve", resolved)
    with http_folder(site) as url:
        named = f"{url.replace('127.0.0.1', 'files.example.org')}/runs/a run"
        with pytest.raises(EngineError, match="LADLE_FAR_PRIVATE") as caught:
            combine_checkpoints(named, output=tmp_path / "out")
        assert caught.value.code == "path-not-allowed"
        monkeypatch.setenv("LADLE_FAR_PRIVATE", "127.0.0.0/8")
        combine_checkpoints(named, output=tmp_path / "out")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:a9fe:a9fe::1", False),
        ("::ffff:10.0.0.1", False),
        ("2606:2800:220:1::1", True),
        ("fe80::1", False),
    ],
)
def test_only_public_addresses_may_be_reached_in_whatever_form_they_are(address: str, expected: bool) -> None:
    assert may_reach(ipaddress.ip_address(address), []) is expected


def test_what_is_outside_the_allowed_addresses_is_not_asked_for(site: Folder, cache: Path) -> None:
    with http_folder(site) as url:
        settings = FarSettings(cache=cache, roots=(f"{url}/runs",))
        with opened_mirror(settings, [], ignore) as mirror:
            for path in ("", "/other", "/runsx", "/runs2/a"):
                with pytest.raises(EngineError, match="must be at or below an allowed address"):
                    mirror.add(parse_url(f"{url}{path}"), "ckpt_dir")
            mirror.add(parse_url(f"{url}/runs/a run"), "ckpt_dir")
    assert not [each for each in site.requests if "/runs/a" not in each]


def test_an_output_cannot_be_a_web_page(site: Folder, tmp_path: Path, cache: Path) -> None:
    with http_folder(site) as url, pytest.raises(EngineError) as caught:
        combine_checkpoints(site.path / "runs" / "a run", output=f"{url}/out")
    assert caught.value.code == "results-unwritable"

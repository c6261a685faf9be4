"""Addresses: what they may say, and what is inside what."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest

import ladle_contracts.far_urls
import ladle_engine.far_urls
from ladle_contracts.environment import split_roots
from ladle_contracts.far_urls import BadUrl, as_url, is_allowed, local_path, parse_url, shown_url
from ladle_contracts.roots import PathNotAllowed, resolve_anywhere


def test_the_service_and_the_engine_have_the_same_file() -> None:
    assert inspect.getsource(ladle_contracts.far_urls) == inspect.getsource(ladle_engine.far_urls)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://host/a", "javascript://x", "s3://user:password@bucket/a", "https://token@host/a", "s3://", "s3:///a",
        "http://host/a?token=secret", "http://host/a#x", "s3://bucket/a/../b", "s3://bucket/./a", "s3://bucket//a",
        "http://host/%2e%2e/a", "http://host/%252e%252e/a", "http://host/a%2f..%2fb", "s3://bucket/a\\b",
        "s3://bucket/a\nb", "s3://bu cket/a", "http://host:99999999/a", "http://ho%73t/a", "s3://bucket/a/%2e%2e/b",
    ],
)  # fmt: skip
def test_an_address_that_may_mean_something_else_is_refused_without_its_secrets(text: str) -> None:
    with pytest.raises(BadUrl) as caught:
        parse_url(text)
    for secret in ("password", "secret", "token@"):
        assert secret not in shown_url(text)
        assert secret not in str(caught.value).replace("has a user or password", "")


def test_a_presigned_address_is_refused_with_what_to_do() -> None:
    with pytest.raises(BadUrl, match="without it, and let the operator's environment have the credentials") as caught:
        parse_url("https://bucket.s3.amazonaws.com/run/a.pt?X-Amz-Credential=secret&X-Amz-Signature=secret")
    assert "secret" not in str(caught.value)


def test_paths_that_are_no_addresses() -> None:
    for path in ("/data", "a:b", "s3:bucket", "./s3://a"[2:][3:], Path("/s3:/a"), 7, None):
        assert as_url(path) is None, path


def test_a_path_gives_an_address_its_slash_back() -> None:
    assert as_url(Path("s3://bucket/a")) == "s3://bucket/a"
    assert as_url(Path("file:///data/a")) == "file:///data/a"
    assert local_path("file:///data/a%20b") == "/data/a b"
    assert local_path("s3://bucket") is None
    with pytest.raises(BadUrl):
        local_path("file://host/a")


@pytest.mark.parametrize(
    ("address", "root", "expected"),
    [
        ("s3://bucket/runs/7", "s3://bucket/runs", True),
        ("s3://bucket/runs", "s3://bucket/runs/", True),
        ("s3://bucket/runs7", "s3://bucket/runs", False),
        ("s3://bucket", "s3://bucket/runs", False),
        ("s3://bucket2/runs", "s3://bucket", False),
        ("gs://bucket/runs", "s3://bucket", False),
        ("http://host/a", "https://host", False),
        ("https://HOST:443/a", "https://host", True),
        ("https://host:444/a", "https://host", False),
        ("https://host.evil.org/a", "https://host", False),
        ("gs://bucket/runs/7", "gs://bucket/runs", True),
        ("az://container/runs/7", "az://container", True),
        ("az://container2/runs", "az://container", False),
        ("hf://owner/name/run", "hf://owner/name", True),
        ("hf://owner/name-2/run", "hf://owner/name", False),
        ("hf://owner/name@branch/run", "hf://owner/name", False),
        ("hf://datasets/owner/name/val", "hf://datasets/owner/name", True),
        ("hf://datasets/owner/name", "hf://owner/name", False),
    ],
)
def test_only_what_is_at_or_below_a_root_is_allowed(address: str, root: str, expected: bool) -> None:
    assert is_allowed(parse_url(address), [root]) is expected


def test_roots_may_be_folders_and_addresses_in_one_setting() -> None:
    text = "/data:s3://bucket/runs:/more:https://host:8443/a:http://other:gs://b"
    split = split_roots({"roots": text.replace(":", os.pathsep)})
    assert split["roots"] == ("/data", "/more")
    assert split["far_roots"] == ("s3://bucket/runs", "https://host:8443/a", "http://other", "gs://b")
    assert split_roots({"roots": "file:///data"})["roots"] == ("/data",)
    for wrong in ("", "ftp://host/a", "s3://user:pw@bucket", "s3://bucket/.."):
        with pytest.raises(ValueError, match="`LADLE_ROOTS` must hold"):
            split_roots({"roots": wrong})


def test_a_path_or_an_address_is_resolved_by_its_own_roots(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    far = ["s3://bucket/runs"]
    assert resolve_anywhere(str(tmp_path / "a"), [tmp_path], far) == str(tmp_path / "a")
    assert resolve_anywhere(f"file://{tmp_path}/a", [tmp_path], far) == str(tmp_path / "a")
    assert resolve_anywhere("s3://bucket/runs/7/", [tmp_path], far) == "s3://bucket/runs/7"
    for refused in ("file:///etc", "s3://bucket/other", "s3://bucket/runs/../x", "s3://k:secret@bucket/runs", "/etc"):
        with pytest.raises(PathNotAllowed) as caught:
            resolve_anywhere(refused, [tmp_path], far, field="val_set")
        assert "`val_set`" in str(caught.value)
        assert "secret" not in str(caught.value)

"""The password of Redis from a file, as both clients of Redis read it from the address."""

from __future__ import annotations

from pathlib import Path

import pytest
from kombu import Connection
from pydantic import ValidationError
from redis.connection import parse_url

from ladle_contracts.broker import broker_url
from ladle_contracts.redis_address import socket_of, with_password
from ladle_worker.settings import Settings

PASSWORD = "p@ss/w:rd%#?é"


@pytest.mark.parametrize("url", ["redis://host:6380/2", "rediss://user@host:6380/2", "unix:///run/redis.sock?db=2"])
def test_any_password_reaches_redis_through_any_address(url: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    found = with_password(url, tmp_path / "password")
    assert parse_url(found) == {**parse_url(url), "password": PASSWORD}
    if not url.startswith("unix"):
        broker = Connection(broker_url(found))
        assert (broker.password, broker.hostname, broker.port) == (PASSWORD, "host", 6380)


def test_without_a_file_the_address_stays() -> None:
    assert with_password("redis://:secret@host", None) == "redis://:secret@host"


@pytest.mark.parametrize(
    ("url", "content", "words"),
    [("redis://:other@host", "secret", "has a password too"), ("redis://host", "\n", "is empty")],
)
def test_what_cannot_be_meant_is_refused(
    url: str, content: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(content)
    for name, value in {
        "ROOTS": "/data", "RESULTS_DIR": "/results", "REDIS_URL": url, "REDIS_PASSWORD_FILE": tmp_path / "password"
    }.items():  # fmt: skip
        monkeypatch.setenv(f"LADLE_{name}", str(value))
    with pytest.raises(ValidationError, match=words) as caught:
        Settings()
    assert "`LADLE_REDIS_PASSWORD_FILE`" in str(caught.value)
    monkeypatch.setenv("LADLE_REDIS_PASSWORD_FILE", str(tmp_path / "missing"))
    with pytest.raises(ValidationError, match=r"must be a file that can be read|has a password too"):
        Settings()


def test_a_socket_is_known_from_the_address() -> None:
    assert socket_of("unix://:x@/run/redis.sock?db=1") == Path("/run/redis.sock")
    assert socket_of("redis://host") is None

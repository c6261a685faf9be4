"""The operator's variables, and the broker's spelling of a Redis address."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from ladle_contracts.broker import broker_url
from ladle_worker.settings import Settings
from tests.polling import DEADLINE_S


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    base = {"ROOTS": "/data", "RESULTS_DIR": "/results"}
    for name, value in (base | variables).items():
        monkeypatch.setenv(f"LADLE_{name}", value)
    return Settings()


def test_roots_are_paths_with_colons_between(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, ROOTS="/data:/more").roots == (Path("/data"), Path("/more"))


def test_a_password_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hunter2" not in repr(settings(monkeypatch, REDIS_URL="redis://:hunter2@redis:6379/0"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROOTS", "relative"),
        ("RESULTS_DIR", "results"),
        ("RANKS", "0"),
        ("NODE_ID", "a b"),
        ("LEASE_S", "0"),
        ("LEASE_S", "soon"),
    ],
)
def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        settings(monkeypatch, **{name: value})


def test_the_program_names_the_variable_and_starts_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ladle_worker"],
        env={"LADLE_RESULTS_DIR": "/results", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 2
    assert "`LADLE_ROOTS`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("redis", "broker"),
    [
        ("redis://:secret@host:6379/1", "redis://:secret@host:6379/1"),
        ("rediss://host:6379/0", "rediss://host:6379/0?ssl_cert_reqs=required"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock"),
        ("unix:///run/redis.sock?db=3", "redis+socket:///run/redis.sock?virtual_host=3"),
    ],
)
def test_the_broker_is_the_same_server(redis: str, broker: str) -> None:
    assert broker_url(redis) == broker

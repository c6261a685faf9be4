"""What the operator configures, and the command that serves."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from ladle_service.__main__ import main
from ladle_service.settings import Settings


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """What must be set."""
    monkeypatch.setenv("LADLE_ROOTS", os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")]))
    monkeypatch.setenv("LADLE_RESULTS_DIR", str(tmp_path / "results"))
    return monkeypatch


def test_settings_come_from_the_environment(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("LADLE_REDIS_URL", "redis://:hunter2@redis:6379/0")
    environment.setenv("LADLE_TOKENS_FILE", "")
    settings = Settings()
    assert settings.roots == (tmp_path / "a", tmp_path / "b")
    assert settings.port == 8337
    assert settings.tokens_file is None
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LADLE_HOST", "0.0.0.0", "LADLE_TOKENS_FILE"),
        ("LADLE_HOST", "example.org", "LADLE_TOKENS_FILE"),
        ("LADLE_ROOTS", "data", "absolute"),
        ("LADLE_RESULTS_DIR", "results", "absolute"),
        ("LADLE_PORT", "70000", "65535"),
        ("LADLE_REDIS_URL", "http://:hunter2@redis", "must begin with redis"),
    ],
)
def test_what_would_be_unsafe_or_wrong_ends_the_start(
    environment: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(ValidationError, match=message):
        Settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_alone_needs_no_tokens(environment: pytest.MonkeyPatch, host: str) -> None:
    environment.setenv("LADLE_HOST", host)
    assert Settings().tokens_file is None


def test_a_socket_needs_no_tokens(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("LADLE_HOST", "0.0.0.0")
    environment.setenv("LADLE_UDS", str(tmp_path / "s"))
    assert Settings().uds == tmp_path / "s"


def test_the_command_names_the_variable_that_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    message = capsys.readouterr().err
    assert "`LADLE_ROOTS` must be set" in message
    assert "`LADLE_RESULTS_DIR` must be set" in message


def test_the_command_says_why_it_does_not_open_to_the_network(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("LADLE_HOST", "0.0.0.0")
    assert main([]) == 2
    assert "Everybody in the network could submit jobs" in capsys.readouterr().err


def test_the_command_shows_no_password_when_it_refuses_a_url(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("LADLE_REDIS_URL", "http://:hunter2@redis")
    assert main([]) == 2
    message = capsys.readouterr().err
    assert "LADLE_REDIS_URL" in message
    assert "hunter2" not in message


def test_the_command_says_that_the_tokens_file_is_missing(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("LADLE_TOKENS_FILE", "/nowhere/tokens")
    assert main([]) == 2
    assert "/nowhere/tokens" in capsys.readouterr().err


def test_the_socket_is_its_owners_alone_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    from ladle_service.__main__ import _listen_privately

    path = tmp_path / "api.sock"
    _listen_privately(path).close()
    with _listen_privately(path) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        listener.listen()
        with pytest.raises(FileExistsError, match="another service"):
            _listen_privately(path)

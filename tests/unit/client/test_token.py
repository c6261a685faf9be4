"""`ladle token`: the tokens file that the service reads."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle.cli import app as command
from ladle.cli.tokens_file import TokensFileUnusable, add_token, read_tokens, remove_tokens
from ladle_contracts.tokens import Scope, StoredToken, TokensFileError, hash_token, make_token, parse_tokens
from ladle_service.auth import Tokens

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    return tmp_path / "secrets" / "tokens"


@pytest.fixture
def ladle(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process, with the file in its environment."""
    monkeypatch.setenv("LADLE_TOKENS_FILE", str(path))
    monkeypatch.delenv("LADLE_REDIS_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["ladle", "token", *arguments])
        try:
            command.main()
            status = 0
        except SystemExit as error:
            status = int(error.code or 0)
        written = capsys.readouterr()
        return subprocess.CompletedProcess([], status, written.out, written.err)

    return run


def a_token(name: str = "ann", **fields: object) -> StoredToken:
    return StoredToken(name=name, digest=hash_token(make_token()), **fields)  # type: ignore[arg-type]


def test_a_token_is_printed_once_and_the_service_knows_it(ladle: Run, path: Path) -> None:
    done = ladle("create", "ann", "--scope", "admin", "--expires", "90d")
    token = done.stdout.strip()
    assert len(token) == 64
    assert token not in done.stderr
    assert token not in path.read_text(), "only its hash is kept"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = Tokens(path)._book.find(token)
    assert found is not None
    assert (found.name, found.scope) == ("ann", Scope.ADMIN)
    assert found.expires is not None
    assert timedelta(days=89) < found.expires - datetime.now(UTC) <= timedelta(days=90)
    assert [entry.name for entry in path.parent.iterdir()] == ["tokens"], "nothing else is left"


def test_a_name_has_several_tokens_and_one_of_them_is_revoked(ladle: Run, path: Path) -> None:
    path.write_text(f"# people\nbob:{hash_token('old')}\n\n# no newline at the end\nann:{hash_token('a')}")
    first = json.loads(ladle("create", "ann", "--json").stdout)
    second = json.loads(ladle("create", "ann", "--scope", "read", "--json").stdout)
    assert first["token"] != second["token"]
    listed = json.loads(ladle("list", "--json").stdout)
    assert [(token["name"], token["scope"]) for token in listed] == [
        ("bob", "submit"), ("ann", "submit"), ("ann", "submit"), ("ann", "read"),
    ]  # fmt: skip
    assert "token" not in listed[0]
    assert ladle("revoke", first["id"]).returncode == 0
    assert [token.digest for token in read_tokens(path)] == [hash_token(text) for text in ("old", "a", second["token"])]
    assert "# people\n" in path.read_text()
    assert "# no newline at the end\n" in path.read_text()
    assert ladle("revoke", "ann").stdout.count("is revoked") == 2
    assert [token.name for token in read_tokens(path)] == ["bob"]
    assert "No token is left" in ladle("revoke", "bob").stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["create", "Ann Smith"], 2, "`NAME` must consist of a-z"),
        (["create", "ann\nbob:x"], 2, "`NAME` must consist of a-z"),
        (["create", "ann", "--scope", "root"], 2, "must be one of read, submit, admin"),
        (["create", "ann", "--expires", "0d"], 2, "a number of hours, days or weeks"),
        (["create", "ann", "--expires", "-1d"], 2, "a number of hours, days or weeks"),
        (["create", "ann", "--expires", "٣d"], 2, "a number of hours, days or weeks"),
        (["create", "ann", "--expires", "999999d"], 2, "a number of hours, days or weeks"),
        (["create", "ann", "--expires", "tomorrow"], 2, "a number of hours, days or weeks"),
        (["revoke", "nobody"], 1, "a name or an id that `ladle token list` shows"),
        (["list", "--tokens-file", "/nowhere/tokens"], 1, "The tokens file `/nowhere/tokens` cannot be used"),
        (["create", "ann", "--tokens-file", "/nowhere/tokens"], 1, "The tokens file `/nowhere/tokens` cannot be used"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    ladle: Run, path: Path, arguments: list[str], status: int, words: str
) -> None:
    path.write_text(f"ann:{hash_token('a')}\n")
    done = ladle(*arguments)
    assert done.returncode == status
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert path.read_text() == f"ann:{hash_token('a')}\n"


def test_without_a_file_it_says_which_setting_names_one(ladle: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LADLE_TOKENS_FILE")
    assert "Pass `--tokens-file` or set LADLE_TOKENS_FILE." in ladle("list").stderr


def test_the_list_tells_expiry_and_says_when_redis_cannot_tell_the_last_use(
    ladle: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = datetime.now(UTC) - timedelta(days=3)
    add_token(path, a_token("ann", expires=past, created=past))
    add_token(path, a_token("bob"))
    monkeypatch.setenv("LADLE_REDIS_URL", "unix:///nowhere/redis.sock")
    done = ladle("list")
    assert "expired 3 days ago" in done.stdout
    assert "never" in done.stdout
    assert "Redis does not answer" in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_the_file_keeps_its_permissions_and_a_link_to_it_stays_one(path: Path, mode: int, tmp_path: Path) -> None:
    path.touch()
    path.chmod(mode)
    link = tmp_path / "link"
    link.symlink_to(path)
    token = a_token()
    add_token(link, token)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert link.is_symlink()
    assert read_tokens(path) == [token]


@pytest.mark.parametrize("content", [b"not a token\n", b"ann:\xff\xfe\n"])
def test_a_file_that_is_already_wrong_is_not_changed(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for change in (lambda: add_token(path, a_token()), lambda: remove_tokens(path, lambda tokens: tokens)):
        with pytest.raises(TokensFileUnusable, match="tokens"):
            change()
    assert path.read_bytes() == content


def test_when_the_disk_is_full_the_old_file_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_token(path, a_token())
    before = path.read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TokensFileUnusable, match="No space left"):
        add_token(path, a_token())
    assert path.read_text() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["tokens"]


def test_writers_at_once_lose_nothing_and_a_reader_never_sees_half_a_file(path: Path) -> None:
    kept = [a_token(f"kept-{number}") for number in range(3)]
    for token in kept:
        add_token(path, token)
    ended = threading.Event()
    broken: list[Exception] = []

    def write(number: int) -> None:
        for _ in range(10):
            add_token(path, a_token(f"name-{number}"))

    def read() -> None:
        while not ended.is_set():
            try:
                tokens = parse_tokens(path.read_text(), "tokens")
                assert tokens[:3] == kept
            except Exception as error:
                broken.append(error)

    reader, *writers = [threading.Thread(target=read), *(threading.Thread(target=write, args=(n,)) for n in range(4))]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    reader.join()
    assert not broken
    assert len(read_tokens(path)) == 3 + 4 * 10


def test_a_line_reads_back_as_it_was_written() -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for token in (a_token(), a_token("x", scope=Scope.READ, created=now, expires=now + timedelta(days=1))):
        assert parse_tokens(token.line(), "here") == [token]
    assert parse_tokens(f"ann:{'0' * 64}", "here") == [StoredToken(name="ann", digest="0" * 64, scope=Scope.SUBMIT)]


@settings(deadline=None)
@given(st.text() | st.text(alphabet=f"ann:{'0a' * 3} \n#=scopexird2026-TZ") | st.just(a_token().line()).map(str.upper))
def test_whatever_a_file_holds_it_is_read_or_refused_without_repeating_it(text: str) -> None:
    secret = "correct-horse-battery-staple"
    with suppress(TokensFileError):
        parse_tokens(text, "here")
    with pytest.raises(TokensFileError) as refused:
        parse_tokens(f"{secret}\n{text}", "here")
    assert secret not in str(refused.value)

"""Where the client looks for a service."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ladle import ConfigurationError
from ladle._address import find_address, parse_address
from ladle._stack_file import Stack, StackTaken, read_stack, sole_stack, stack_path

RUNNING = Stack(url="http://127.0.0.1:9000", token="stack-token", pid=os.getpid())


@pytest.fixture
def announced() -> Iterator[Path]:
    """A stack runs, and has said where."""
    with sole_stack() as announce:
        yield announce(RUNNING)


@pytest.mark.usefixtures("announced")
def test_the_argument_comes_before_the_environment_and_that_before_the_stack_file() -> None:
    environment = {"LADLE_URL": "http://from-environment", "LADLE_TOKEN": "t"}
    assert find_address("http://argument", environment=environment).base_url == "http://argument"
    assert find_address(environment=environment).base_url == "http://from-environment"
    found = find_address(environment={})
    assert (found.base_url, found.token, found.is_own_stack) == ("http://127.0.0.1:9000", "stack-token", True)
    assert not find_address("http://127.0.0.1:9000", environment={}).is_own_stack


@pytest.mark.usefixtures("announced")
def test_the_token_of_the_local_stack_is_sent_to_no_other_address() -> None:
    assert find_address("http://elsewhere", environment={}).token is None


def test_without_any_address_the_error_says_how_to_start_a_service() -> None:
    with pytest.raises(ConfigurationError, match="ladle up"):
        find_address(environment={})


def test_a_stack_that_was_killed_is_not_found_though_its_process_id_lives_again() -> None:
    script = f"""
import os, signal
from pathlib import Path
from ladle._stack_file import Stack, sole_stack
with sole_stack(Path({str(stack_path())!r})) as announce:
    announce(Stack(url="http://127.0.0.1:9000", token=None, pid={os.getpid()}))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert stack_path().exists(), "it could not remove it"
    assert read_stack() is None
    with pytest.raises(ConfigurationError, match="ladle up"):
        find_address(environment={})
    with sole_stack() as announce:
        assert not stack_path().exists(), "the next one begins by removing what was left"
        announce(RUNNING)
        assert read_stack() == RUNNING


def test_the_stack_file_is_its_owners_alone(announced: Path) -> None:
    assert announced == stack_path()
    assert stat.S_IMODE(announced.stat().st_mode) == 0o600
    assert read_stack() == RUNNING


def test_only_one_stack_runs_and_its_file_goes_with_it() -> None:
    with sole_stack() as announce:
        with pytest.raises(StackTaken) as caught, sole_stack():
            raise AssertionError("the block must not run")
        assert caught.value.stack is None, "it is still starting"
        announce(RUNNING)
        with pytest.raises(StackTaken) as caught, sole_stack():
            raise AssertionError("the block must not run")
        assert caught.value.stack == RUNNING
    assert read_stack() is None
    assert not stack_path().exists()


@pytest.mark.parametrize("text", ["", "[]", '{"url": 1, "pid": 2}', '{"url": "http://x"}', '{"url": "x", "pid": "1"}'])
def test_a_file_that_is_no_stack_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=str(path)):
        read_stack(path)


@pytest.mark.parametrize("url", ["unix:///run/ladle.sock", "http+unix://%2Frun%2Fladle.sock"])
def test_unix_sockets_are_addresses(url: str) -> None:
    address = parse_address(url)
    assert address.uds == "/run/ladle.sock"
    assert address.is_local


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8337",
        "ftp://x",
        "http://",
        "unix://relative",
        "http://x:99999",
        "http://x:y",
        "/socket",
        "http://x/?a=1",
        "http://[::1",
    ],
)
def test_what_is_no_address_is_refused_with_the_forms_that_are(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"`url=` must"):
        parse_address(url)


def test_a_wrong_value_from_the_environment_is_blamed_on_its_variable() -> None:
    with pytest.raises(ConfigurationError, match=r"^`LADLE_URL` must be http"):
        find_address(environment={"LADLE_URL": "nonsense"})
    with pytest.raises(ConfigurationError, match=r"^`LADLE_TOKEN` must be printable"):
        find_address("http://x", environment={"LADLE_TOKEN": "a b"})
    with pytest.raises(ConfigurationError, match=r"^`url=` must be http"):
        find_address("nonsense", environment={"LADLE_URL": "http://x"})


def test_a_password_in_the_address_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_address("http://me:hunter2@host")
    assert "hunter2" not in str(caught.value)


def test_a_token_is_never_shown() -> None:
    assert "secret" not in repr(parse_address("http://host", "secret"))


@pytest.mark.parametrize("token", ["a b", "a\nb", "ä"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(ConfigurationError, match="`token=`"):
        parse_address("http://host", token)


@pytest.mark.parametrize(
    ("url", "local"),
    [("http://127.0.0.1:1", True), ("http://localhost", True), ("http://[::1]:2", True), ("http://10.0.0.1", False)],
)
def test_no_proxy_stands_before_this_machine(url: str, local: bool) -> None:
    assert parse_address(url).is_local is local

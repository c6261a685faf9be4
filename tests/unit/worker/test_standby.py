"""When a job cannot use the launcher that waits, and what others see of one that has a job."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ladle_worker.launch import standby
from ladle_worker.launch.standby import MARK_ROOM, Standby, Told
from ladle_worker.waiting import TAKEN
from tests.polling import until

USUAL = {"PATH": "/usr/bin", "OMP_NUM_THREADS": "2", "TORCH_CPP_LOG_LEVEL": "ERROR"}


class Waiting:
    """A process that lives."""

    returncode = None

    def poll(self) -> None:
        return None

    def kill(self) -> None:
        """Nothing is there."""

    wait = kill


@pytest.fixture
def ready() -> Standby:
    made = Standby()
    made._environment = USUAL
    made._process = Waiting()  # type: ignore[assignment]
    made._installed = standby.installed()
    return made


def test_variables_that_are_read_late_may_differ(ready: Standby) -> None:
    assert ready._why_cold({**USUAL, "OMP_NUM_THREADS": "1", "TMPDIR": "/x", "NCCL_DEBUG": "INFO"}) is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"HF_HOME": "/x"}, "HF_HOME"), ({"TORCH_CPP_LOG_LEVEL": "INFO"}, "TORCH_CPP_LOG_LEVEL")],
)
def test_variables_that_imports_read_must_be_the_same(changed: dict[str, str], named: str, ready: Standby) -> None:
    assert ready._why_cold({**USUAL, **changed}) == f"its environment differs in {named}"


def test_a_package_that_was_installed_meanwhile_is_not_missed(
    ready: Standby, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    ready._installed = standby.installed()
    assert ready._why_cold(USUAL) is None
    (tmp_path / "plug_in-1.0.dist-info").mkdir()
    assert "packages were installed or removed" in (ready._why_cold(USUAL) or "")


def test_where_none_shall_wait_nothing_is_said() -> None:
    assert Standby()._why_cold(USUAL) == ""


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


@pytest.mark.parametrize("killed", [True, False])
def test_one_that_is_killed_or_does_not_answer_is_replaced(killed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with sleeper() as stuck, sleeper() as other, ours, theirs:
        monkeypatch.setattr(standby, "ANSWER_S", 600.0 if killed else 0.0)
        told = Told(stuck, ours, lambda: other)
        if killed:
            stuck.kill()
        until(lambda: told.poll() is None and told.pid == other.pid, what="the other one to be started")
        assert stuck.poll() is not None
        other.kill()


def test_one_that_answers_goes_on_and_is_asked_no_more() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with sleeper() as process, ours, theirs:
        told = Told(process, ours, sleeper)
        theirs.send(TAKEN)
        assert told.poll() is None
        process.kill()
        assert until(told.poll, what="it to end") == -signal.SIGKILL
        assert told.pid == process.pid


def test_a_process_shows_the_command_and_the_mark_that_it_gets_later() -> None:
    program = (
        "from pathlib import Path\n"
        "from ladle_worker.process_words import show_command, show_variable\n"
        "show_command(['python', '-m', 'a.module', 'a folder'])\n"
        "show_variable('MARK', 'job-1@node-1')\n"
        "words = Path('/proc/self/cmdline').read_bytes().rstrip(b'\\0').split(b'\\0')\n"
        "variables = Path('/proc/self/environ').read_bytes().split(b'\\0')\n"
        "assert words == [b'python', b'-m', b'a.module', b'a folder'], words\n"
        "assert b'MARK=job-1@node-1' in variables, variables\n"
        "assert b'LATER=x' in variables and b'NOTMARK=y' in variables, variables\n"
        "show_command(['x' * 100_000])\n"
        "assert Path('/proc/self/cmdline').read_bytes().startswith(b'xxx')\n"
        "assert b'MARK=job-1@node-1' in Path('/proc/self/environ').read_bytes().split(b'\\0')\n"
        "try:\n    show_variable('MARK', 'x' * 1000)\n"
        "except ValueError:\n    print('ok')\n"
    )
    paths = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    environment = {**paths, "NOTMARK": "y", "MARK": "." * MARK_ROOM, "LATER": "x"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr

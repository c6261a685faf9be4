"""No process outlives its parent, and an attempt ends to the last process, wherever it has gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ladle_contracts.processes import end_with_parent
from ladle_worker.confinement.plan import NETWORK, PROCESSES
from ladle_worker.tree import KILL_S, Running, end_all, marked
from tests.polling import until
from tests.servers import is_alive

REPOSITORY = Path(__file__).parents[3]


class Agent:
    """`agent_alone` in a process of its own, with the ranks of one job."""

    def __init__(self, process: subprocess.Popen[str], job: str) -> None:
        self.process = process
        self.job = job
        self.launcher: int = self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def tell(self, command: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.answer()

    def all(self) -> list[psutil.Process]:
        found = []
        for process in marked(self.job):
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(process.pid))
        return found

    def running(self, words: str) -> list[psutil.Process]:
        return [process for process in self.all() if words in " ".join(_command(process))]

    def of_module(self, module: str) -> list[psutil.Process]:
        """The ranks, and what they have forked."""
        return [process for process in self.running(module) if "ladle_worker.torchrun" not in _command(process)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def agent(folder: Path, module: str, protections: str = "") -> Iterator[Agent]:
    job = f"job-{uuid.uuid4().hex}"
    command = ["-m", "tests.unit.worker.agent_alone", str(folder), job, f"tests.unit.worker.{module}", protections]
    with subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        # The ranks, which start elsewhere, find `tests` by it.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
        },
        preexec_fn=end_with_parent(signal.SIGKILL),
    ) as process:
        try:
            yield Agent(process, job)
        finally:
            process.kill()
            end_all(lambda: marked(job), 0)


@pytest.mark.parametrize("protections", ["", f"{NETWORK},{PROCESSES}"])
def test_a_rank_whose_torchrun_is_killed_as_it_appears_does_not_live_on(protections: str, tmp_path: Path) -> None:
    with agent(tmp_path / "attempt", "lasting_rank", protections) as made:
        rank = until(lambda: made.of_module("lasting_rank"), interval_s=0, what="a rank")[0]
        torchrun = rank.parent()
        assert torchrun is not None
        torchrun.kill()
        until(lambda: not is_alive(rank), what="the rank to end")
        assert made.tell("end") == "ended"
        assert not marked(made.job)


@pytest.mark.slow
@pytest.mark.parametrize("protections", ["", PROCESSES])
def test_what_has_left_its_parent_is_stopped_or_forks_on_is_ended_with_the_attempt(
    protections: str, tmp_path: Path
) -> None:
    with agent(tmp_path / "attempt", "straying_rank", protections) as made:
        until(lambda: len(made.of_module("straying_rank")) >= 3, what="the rank and its strays")
        assert made.tell("end") == "ended"
        assert not marked(made.job)


def test_before_an_attempt_begins_nothing_of_an_earlier_one_lives(tmp_path: Path) -> None:
    with agent(tmp_path / "1", "straying_rank") as made:
        until(lambda: len(made.of_module("straying_rank")) >= 3, what="the rank and its strays")
        # The agent is lost, and another one of the same node goes on with the job: here it is the same process.
        psutil.Process(made.launcher).kill()
        until(lambda: not made.running("ladle_worker.torchrun"), what="the launcher to end")
        assert made.of_module("straying_rank")
        second = made.tell(str(tmp_path / "2"))
        assert not made.of_module("straying_rank")
        assert second in {process.pid for process in marked(made.job)}
        made.tell("end")


@pytest.mark.slow
def test_ranks_end_with_an_agent_that_is_killed(tmp_path: Path) -> None:
    for protections in ("", PROCESSES):
        with agent(tmp_path / f"of-{protections}", "lasting_rank", protections) as made:
            until(lambda made=made: made.of_module("lasting_rank"), what="a rank")  # type: ignore[misc]
            made.process.kill()
            until(lambda made=made: not marked(made.job), what="all to end")  # type: ignore[misc]


def test_what_cannot_be_ended_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("ladle_worker.tree.KILL_S", 0.05)
    assert KILL_S > 1

    # No group has a number so large.
    hanging = Running(pid=12345, parent=1, group=1 << 30, state="D")
    assert end_all(lambda: [hanging], grace_s=0) == [hanging]
    assert "process 12345 cannot be ended: its state is D" in caplog.text


def test_a_child_ends_with_its_parent_however_that_ends() -> None:
    parent = (
        "import subprocess, sys, time\n"
        "import signal\nfrom ladle_contracts.processes import end_with_parent\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = subprocess.Popen(command, preexec_fn=end_with_parent(signal.SIGKILL))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent(signal.SIGKILL)
    ) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not is_alive(child), what="the child to end")

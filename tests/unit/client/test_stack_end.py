"""How the stack of `ladle run` ends: at once, but never before the worker has cleared up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ladle.cli import stack as stack_module
from ladle.cli.stack import JOBS_FOLDER, LocalStack, StackOptions
from tests.polling import DEADLINE_S

TAKES_ITS_TIME = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    """One of a single part, which ends with 7 when it is asked to."""
    process = subprocess.Popen([sys.executable, "-c", TAKES_ITS_TIME], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    made = LocalStack(StackOptions(roots=[], results=tmp_path / "results", state=tmp_path / "state"))
    made.processes["worker"] = process
    yield made
    process.kill()
    process.wait(DEADLINE_S)
    process.stdout.close()


def test_when_the_worker_has_cleared_up_nothing_is_waited_for(stack: LocalStack) -> None:
    stack.finish("j1")
    assert stack.processes["worker"].returncode == -9


def test_a_worker_that_is_still_clearing_up_is_asked_to_end(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module, "CLEAR_S", 0.1)
    (stack.options.results_folder / JOBS_FOLDER / "j1").mkdir(parents=True)
    stack.finish("j1")
    assert stack.processes["worker"].returncode == 7

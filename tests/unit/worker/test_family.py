"""No process outlives its parent, and a tree ends to the last leaf."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from ladle_contracts.processes import end_with_parent
from ladle_worker.family import end_tree
from tests.polling import SOON_S, until
from tests.servers import is_alive

STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)"
)


def test_a_tree_that_ignores_sigterm_ends_all_the_same_with_all_its_leaves() -> None:
    leaf = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {STUBBORN!r}])\n{STUBBORN}"
    with subprocess.Popen([sys.executable, "-c", leaf], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["up\n", "up\n"]
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert len(tree) == 2
        began = time.monotonic()
        end_tree(process.pid, grace_s=0.3)
        assert time.monotonic() - began < SOON_S
        process.wait()
        assert not any(is_alive(each) for each in tree)


def test_ending_a_tree_that_has_ended_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        end_tree(process.pid, grace_s=0.1)


def test_a_child_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
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

"""Ranks that the kernel ended for want of memory, or that ended themselves because they could not have more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ladle_contracts import Reason
from ladle_worker import memory_kills
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.launch import children
from ladle_worker.launch.children import Children
from ladle_worker.launch.launcher import Status
from ladle_worker.silent_ranks import SilentRanks
from ladle_worker.torchrun import KILLED_STATUS
from tests.polling import until


@pytest.mark.parametrize(
    ("groups", "name"),
    [
        ("0::/user.slice/worker\n", "user.slice/worker/memory.events"),
        ("0::/elsewhere\n", "memory.events"),
        ("4:memory:/docker/1\n0::/\n", "memory/docker/1/memory.oom_control"),
        ("4:memory:/elsewhere\n1:cpu:/\n", "memory/memory.oom_control"),
    ],
)
def test_they_are_counted_in_the_own_control_group_of_either_version(
    groups: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "groups").write_text(groups)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("low 0\noom 5\noom_kill 3\noom_group_kill 0\n")
    (tmp_path / "vmstat").write_text("nr_free_pages 1\noom_kill 8\n")
    monkeypatch.setattr(memory_kills, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(memory_kills, "OWN_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory_kills, "WHOLE_MACHINE", tmp_path / "vmstat")
    assert memory_kills.count_kills() == 3
    (tmp_path / name).unlink()
    assert memory_kills.count_kills() == 8, "of the whole machine"
    (tmp_path / "vmstat").unlink()
    assert memory_kills.count_kills() == 0


@pytest.mark.parametrize(
    "line",
    [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "memory allocation of 1099511627776 bytes failed",
        "MemoryError",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1.00 TiB",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory",
        "OSError: [Errno 12] Cannot allocate memory",
        "libgomp: Thread creation failed: Resource temporarily unavailable",
        "RuntimeError: can't start new thread",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    ],
)
def test_last_words_about_memory_are_known(line: str) -> None:
    assert memory_kills.about_memory(["a line", line, "Aborted"])
    assert not memory_kills.about_memory(["memory is planned: 12 GB", "the rank dies here"])


@pytest.mark.parametrize(
    ("code", "out_of_memory", "log", "reason"),
    [
        (KILLED_STATUS, True, "", Reason.OUT_OF_MEMORY),
        (KILLED_STATUS, False, "", Reason.CRASHED),
        (1, False, "std::bad_alloc", Reason.OUT_OF_MEMORY),
        (0, False, "std::bad_alloc", Reason.CRASHED),
    ],
)
def test_ranks_without_an_outcome_ended_of_memory_only_if_something_says_so(
    code: int, out_of_memory: bool, log: str, reason: Reason, tmp_path: Path
) -> None:
    folder = AttemptFolder(tmp_path)
    folder.log.write_text(log)
    launcher: Any = SimpleNamespace(logs=log.splitlines)
    settings: Any = SimpleNamespace(node_id="here", lease_s=1.0)
    claim: Any = SimpleNamespace(speaks=True, nodes=("here",))
    silent = SilentRanks(settings=settings, claim=claim, folder=folder, await_end=lambda at_most_s: None)
    ended = silent.ended(Status(is_over=True, code=code, out_of_memory=out_of_memory), launcher)
    assert ended.reason == reason
    assert ended.outcome == ("failed" if reason == Reason.OUT_OF_MEMORY else "crashed")


def _group() -> Path | None:
    """A memory group of version 1 for a test, where this user may make one."""
    made = Path("/sys/fs/cgroup/memory") / f"ladle-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError:
        return None
    return made


def test_a_real_kill_is_counted() -> None:
    group = _group()
    if group is None:
        pytest.skip("this user cannot make a control group of version 1")
    code = f"""
import os, subprocess, sys
from pathlib import Path
from ladle_worker.memory_kills import count_kills
Path({str(group / "cgroup.procs")!r}).write_text(str(os.getpid()))
before = count_kills()
status = subprocess.run([sys.executable, "-c", "held = b'x' * (400 << 20)"]).returncode
print(status, count_kills() - before)
"""
    try:
        (group / "memory.limit_in_bytes").write_text(str(150 << 20))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), what="the group to be empty")
        group.rmdir()
    assert done.stdout.split() == ["-9", "1"]


@pytest.mark.parametrize(
    ("code", "kills", "is_meant"), [(KILLED_STATUS, 1, True), (-9, 1, True), (KILLED_STATUS, 0, False), (1, 1, False)]
)
def test_a_kill_is_of_memory_if_the_kernel_counts_one_more(
    code: int, kills: int, is_meant: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([0, kills])
    monkeypatch.setattr(children, "count_kills", lambda: next(counts, kills))
    folder = AttemptFolder(tmp_path)
    folder.make()
    end = f"import os; os.kill(os.getpid(), 9) if {code} == -9 else os._exit({code})"
    launch: Any = SimpleNamespace(folder=folder, mark=f"memory@{tmp_path}")
    started = Children(launch, (sys.executable, "-c", end), os.environ)
    until(lambda: started.status().is_over, what="the end")
    started.close()
    assert (started.status().code, started.status().out_of_memory) == (code, is_meant)

"""Machines that a dispatcher was given: they meet through the attempt's folder, run the ranks, and end when told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from ladle_worker.confinement.plan import Plan, readable, writable
from ladle_worker.job_folder import AttemptFolder, write_whole
from ladle_worker.launch.hand_over import hand_over, let_go
from ladle_worker.launch.launcher import Launch
from ladle_worker.settings import Settings
from tests.polling import until
from tests.servers import is_alive

LASTING = "tests.unit.worker.lasting_rank"
MEETING = "tests.unit.worker.meeting_rank"


def launch_in(tmp_path: Path, module: str) -> Launch:
    folder = AttemptFolder(tmp_path / "attempt-1")
    folder.make()
    write_whole(
        folder.job, {"staging": str(tmp_path / "staging"), "state": str(tmp_path / "state"), "limit_memory": True}
    )
    plan = Plan(
        agent=os.getpid(),
        protections=(),
        inputs=(str(tmp_path),),
        outputs=str(tmp_path),
        read=readable([], [], []),
        write=writable([folder.path], []),
        devices=(),
    )
    return Launch(
        folder=folder,
        job_id="job",
        attempt=1,
        mark="job@dispatcher",
        num_nodes=2,
        ranks_per_node=1,
        module=module,
        plan=plan,
    )


def handed_over(tmp_path: Path, module: str, **settings: object) -> AttemptFolder:
    launch = launch_in(tmp_path, module)
    made = {"roots": (tmp_path,), "results_dir": tmp_path, "confine": ("off",), **settings}
    hand_over(launch, Settings(**made))
    return launch.folder


@contextmanager
def machine(folder: AttemptFolder, node_rank: int, num_nodes: int) -> Iterator[subprocess.Popen[str]]:
    variables = {"LADLE_NUM_NODES": str(num_nodes), "LADLE_NODE_RANK": str(node_rank), "LADLE_ADDRESS": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ladle_worker.launch.on_node", str(folder.path)],
        env=os.environ | variables | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def below(process: subprocess.Popen[str], module: str) -> list[psutil.Process]:
    """The ranks, without torchrun."""
    found = {each: command_of(each) for each in psutil.Process(process.pid).children(recursive=True)}
    return [each for each, words in found.items() if module in words and "ladle_worker.torchrun" not in words]


def command_of(process: psutil.Process) -> list[str]:
    """Empty if it has ended meanwhile: torchrun starts processes that do not last."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_two_machines_meet_through_the_folder_and_their_ranks_work_together(tmp_path: Path) -> None:
    folder = handed_over(tmp_path, MEETING)
    with ExitStack() as stack:
        machines = [stack.enter_context(machine(folder, rank, 2)) for rank in range(2)]
        assert [each.wait(120) for each in machines] == [0, 0], folder.log.read_text()
    assert folder.read_outcome() == {"ok": True, "sum": 3}
    assert json.loads(folder.of_machine(1).job.read_text())["staging"] == str(folder.of_machine(1).path / "output")


@pytest.mark.slow
@pytest.mark.parametrize("told", ["a signal", "the dispatcher lets go"])
def test_a_machine_that_is_told_to_end_leaves_no_rank_and_says_who_told_it(told: str, tmp_path: Path) -> None:
    folder = handed_over(tmp_path, LASTING)
    with machine(folder, 0, 1) as process:
        ranks = until(lambda: below(process, LASTING), what="a rank")
        if told == "a signal":
            process.send_signal(signal.SIGTERM)
        else:
            let_go(folder)
        assert process.wait(60) == 75
        assert not any(is_alive(rank) for rank in ranks)
    assert folder.interrupted.exists() == (told == "a signal")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a machine is gone", "a rank crashes"])
def test_machines_that_lose_one_say_so_and_those_whose_rank_crashed_do_not_blame_a_machine(
    what: str, tmp_path: Path
) -> None:
    (tmp_path / "stay").touch()
    folder = handed_over(tmp_path, MEETING)
    with ExitStack() as stack:
        machines = [stack.enter_context(machine(folder, rank, 2)) for rank in range(2)]
        until((tmp_path / "met").exists, what="the ranks to meet")
        (rank,) = below(machines[1], MEETING)
        if what == "a rank crashes":
            rank.kill()
        else:
            machines[1].kill()
        assert machines[0].wait(120) != 0
    told = folder.read_outcome()
    if what == "a rank crashes":
        assert told is None
        assert folder.crashed.exists()
    else:
        assert told is not None
        assert (told["reason"], told["final"]) == ("nodes-cannot-meet", False), told


def test_a_machine_with_another_version_than_the_dispatchers_refuses_the_job(tmp_path: Path) -> None:
    folder = handed_over(tmp_path, LASTING)
    handed = json.loads(folder.hand_over.read_text())
    write_whole(folder.hand_over, {**handed, "versions": {"ladle": "0.0.1"}})
    with machine(folder, 0, 1) as process:
        assert process.wait(60) == 0
    told = folder.read_outcome()
    assert told is not None
    assert (told["ok"], told["reason"], told["final"]) == (False, "version-mismatch", True)
    assert "0.0.1" in told["message"]


def test_nothing_of_redis_is_handed_over(tmp_path: Path) -> None:
    folder = handed_over(tmp_path, LASTING, redis_url="redis://:secret@10.1.2.3:6379/0")
    assert "secret" not in folder.hand_over.read_text()

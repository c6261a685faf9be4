"""Whose failure it is that an attempt ended, as far as its agent can tell: docs/nodes.md has the table."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ladle_contracts import Reason
from ladle_engine.distributed.machine_faults import is_machine_fault
from ladle_worker.agent import cannot_meet
from ladle_worker.claim import Ended
from ladle_worker.gang import CannotMeet
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.launch.launcher import Status
from ladle_worker.silent_ranks import SilentRanks

BROKEN = [
    "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    "RuntimeError: CUDA error: no CUDA-capable device is detected",
    "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    "RuntimeError: No CUDA GPUs are available",
    "RuntimeError: Unexpected error from cudaGetDeviceCount(): CUDA driver initialization failed, you might not have a "
    "CUDA gpu.",
    "RuntimeError: CUDA unknown error: system not yet initialized",
    "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    "RuntimeError: Found no NVIDIA driver on your system.",
    "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.",
]
THE_JOBS = [
    "RuntimeError: CUDA error: device-side assert triggered",
    "RuntimeError: CUDA error: an illegal memory access was encountered",
    "Segmentation fault",
    "",
]
LOST = [
    "RankLostError: Rank 1 could not finish a collective with the others: rank 0 does not answer. (...)",
    "RuntimeError: [/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:1",
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, ncclRemoteError",
]


def ended(folder: Path, log: str, *, nodes: tuple[str, ...] = ("n1",)) -> Ended:
    """What the agent of `n1` says of ranks that ended with 1, and of which no other node says anything."""
    attempt = AttemptFolder(folder)
    attempt.log.write_text(log)
    settings: Any = SimpleNamespace(node_id="n1", lease_s=0.01)
    claim: Any = SimpleNamespace(speaks=True, nodes=nodes)
    launcher: Any = SimpleNamespace(logs=log.splitlines)
    silent = SilentRanks(settings=settings, claim=claim, folder=attempt, await_end=lambda at_most_s: None)
    return silent.ended(Status(is_over=True, code=1), launcher)


@pytest.mark.parametrize("words", BROKEN)
def test_a_broken_gpu_is_the_nodes_failure_and_is_named(words: str, tmp_path: Path) -> None:
    said = ended(tmp_path, f"Traceback\n{words}\n")
    assert (said.outcome, said.reason, said.nodes) == ("node-failed", Reason.NODE_UNFIT, None)
    assert said.message == f"A GPU of node `n1` does not work: {words}"
    assert is_machine_fault(RuntimeError(words)), "the engine does not take it for a mistake of a task either"


@pytest.mark.parametrize("words", THE_JOBS)
@pytest.mark.parametrize("nodes", [("n1",), ("n1", "n2")])
def test_ranks_that_crash_are_the_jobs_failure(words: str, nodes: tuple[str, ...], tmp_path: Path) -> None:
    said = ended(tmp_path, words, nodes=nodes)
    assert (said.outcome, said.reason) == ("crashed", Reason.CRASHED)
    assert not is_machine_fault(RuntimeError(words))


@pytest.mark.parametrize("words", LOST)
def test_ranks_of_several_nodes_that_lose_each_other_are_the_networks_failure(words: str, tmp_path: Path) -> None:
    said = ended(tmp_path, words, nodes=("n1", "n2"))
    assert (said.outcome, said.reason, said.nodes) == ("node-failed", Reason.NODES_CANNOT_MEET, ())
    assert said.message.startswith("The ranks of `n1`, `n2` lost each other, though all nodes live.")
    assert ended(tmp_path, words).outcome == "crashed", "on one node there is no network that could be broken"


@pytest.mark.parametrize(
    ("error", "outcome", "nodes"),
    [
        (CannotMeet(Reason.NODES_CANNOT_MEET, "no port", "n2"), "node-failed", ("n2",)),
        (CannotMeet(Reason.INPUTS_DIFFER, "no folder", "n2"), "crashed", ("n2",)),
        (CannotMeet(Reason.INPUTS_DIFFER, "other bytes"), "crashed", ()),
        (CannotMeet(Reason.VERSION_MISMATCH, "torch"), "failed", ()),
    ],
    ids=str,
)
def test_nodes_that_cannot_meet_are_at_fault_where_one_of_them_is(
    error: CannotMeet, outcome: str, nodes: tuple[str, ...]
) -> None:
    said = cannot_meet(error)
    assert (said.outcome, said.nodes) == (outcome, nodes)

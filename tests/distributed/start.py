"""Starts real ranks on this machine, over gloo: as Ladle's launcher does, or with torchrun; and ends them, as Ladle
does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

from tests.polling import DEADLINE_S

REPOSITORY = Path(__file__).parents[2]


FORKED = ("tests.distributed.forked",)
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node")
"""As an operator does who has no service. Each rank imports torch anew, which takes longer than most of the tests."""


def run_module(module: str, ranks: int, *arguments: str) -> None:
    """Runs `python -m module arguments` as so many ranks, and fails with what they said when one fails."""
    run_program(ranks, "-m", module, *arguments)


def run_program(ranks: int, *program: str, launcher: Sequence[str] = FORKED) -> None:
    """The same for what torchrun takes as a program: a script, or `-m` and a module, with arguments."""
    done = start(ranks, *program, launcher=launcher)
    assert done.returncode == 0, done.stderr[-5000:]


def start(ranks: int, *program: str, launcher: Sequence[str] = FORKED) -> subprocess.CompletedProcess[str]:
    """What came of it."""
    return subprocess.run(
        [sys.executable, "-m", *launcher, str(ranks), *program],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        },
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def end_rank() -> NoReturn:
    """Ends a rank that has done all it should, in the way of `ladle_worker.rank`.

    FSDP2's caches hold on to the process group, whose threads then run on while the interpreter is taken down, which
    has been seen to abort.
    """
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)

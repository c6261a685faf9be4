"""Starts real ranks on this machine, as an operator does: with torchrun, over gloo; and ends them, as Ladle does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

from tests.polling import DEADLINE_S

REPOSITORY = Path(__file__).parents[2]


def run_module(module: str, ranks: int, *arguments: str) -> None:
    """Runs `python -m module arguments` as so many ranks, and fails with what they said when one fails."""
    run_program(ranks, "-m", module, *arguments)


def run_program(ranks: int, *program: str) -> None:
    """The same for what torchrun takes as a program: a script, or `-m` and a module, with arguments."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),
            *program,
        ],
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
    assert done.returncode == 0, done.stderr[-5000:]


def end_rank() -> NoReturn:
    """Ends a rank that has done all it should, in the way of `ladle_worker.rank`.

    FSDP2's caches hold on to the process group, whose threads then run on while the interpreter is taken down, which
    has been seen to abort.
    """
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)

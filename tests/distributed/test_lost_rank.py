"""A rank that dies or hangs inside a collective: the others end soon, with a message that names it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("lost", "how", "named"),
    [
        (1, "dies", "rank 1 did not answer"),
        (0, "dies", "rank 0, or whatever else holds"),
        (2, "hangs", "rank 2 did not"),
    ],
    ids=lambda value: str(value),
)
def test_the_others_end_and_name_it(tmp_path: Path, lost: int, how: str, named: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.lost_rank", str(lost), how, str(tmp_path)],
            env={
                **os.environ,
                **{"RANK": str(rank), "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
                **{"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            },
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(3)
    ]
    try:
        deadline = time.monotonic() + 90
        for rank, process in enumerate(ranks):
            if rank != lost:
                process.wait(timeout=max(deadline - time.monotonic(), 1))
                assert named in (tmp_path / f"said-{rank}").read_text()
    finally:
        for process in ranks:
            process.kill()
            process.wait()

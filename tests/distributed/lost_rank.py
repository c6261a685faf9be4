"""One of three ranks, started without torchrun: rank `argv[1]` dies or hangs in a collective, the others say so."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from ladle_engine.collectives import ROLL_CALL_S, ProcessGroup, RankLostError


def main(lost: int, how: str, folder: Path) -> None:
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", timeout=timedelta(seconds=15))
    collectives = ProcessGroup()
    collectives.sum(torch.zeros(3))
    if rank == lost:
        if how == "hangs":
            time.sleep(120)
        os._exit(9)
    try:
        collectives.scatter_sum(torch.zeros(3000))
    except RankLostError as error:
        (folder / f"said-{rank}").write_text(str(error))
    # Without torchrun rank 0 holds the store, through which the others still ask. Destroying a broken group may hang.
    time.sleep(ROLL_CALL_S)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))

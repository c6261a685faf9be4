"""One of three ranks on two nodes, the first of which has two: writes what `by-node` says to that."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from ladle_engine import EngineError
from ladle_engine.distributed.collectives import ProcessGroup
from tests.distributed.start import end_rank


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    os.environ["LOCAL_WORLD_SIZE"] = "1" if rank == 2 else "2"
    dist.init_process_group("gloo", timeout=timedelta(seconds=15))
    try:
        ProcessGroup().split_by_node()
    except EngineError as error:
        (folder / f"said-{rank}").write_text(f"[{error.code}] {error}")
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""One rank of `test_diagnosis_on_ranks`: a job with `diagnose`, in several placements, through `average`.

torchrun ... -m tests.distributed.diagnosis_rank <folder>
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ladle_engine import average
from ladle_engine.placements.base import BY_CHECKPOINT, BY_NODE, BY_PARAMETER, REPLICATED, SHARDED_MODEL
from ladle_engine.progress import ProgressEvent, StageStarted
from ladle_engine.storage.input_file import COUNTS
from tests.distributed.start import end_rank
from tests.unit.engine.toy import ToyTask, norm_net

PLACED: Mapping[int, tuple[str, ...]] = {2: (BY_PARAMETER, SHARDED_MODEL), 4: (REPLICATED, BY_NODE, BY_CHECKPOINT)}
"""Ranks -> the placements in which the job runs."""


def run(folder: Path, placement: str, ranks: int) -> int:
    """Collective: how many bytes this rank read, on rank 0 before it wrote."""
    before = COUNTS.all_read
    read: list[int] = []

    def look(event: ProgressEvent) -> None:
        if isinstance(event, StageStarted) and event.stage == "write":
            read.append(COUNTS.all_read - before)

    average(
        folder / "checkpoints",
        folder / "checkpoints",
        output=folder / f"{ranks} {placement}",
        task=ToyTask(norm_net),
        method="twa-layerwise",
        method_options={"steps": 8},
        placement=placement,
        diagnose=True,
        progress=look,
    )
    return read[0] if read else COUNTS.all_read - before


def report(folder: Path, placement: str, ranks: int) -> Any:
    return json.loads((folder / f"{ranks} {placement}" / "report.json").read_text())


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    ranks = dist.get_world_size()
    if ranks == 4:
        # Two nodes of two ranks, as torchrun would say it.
        os.environ["LOCAL_WORLD_SIZE"] = "2"
    read = {placement: run(folder, placement, ranks) for placement in PLACED[ranks]}
    (folder / f"{ranks}-{dist.get_rank()}.json").write_text(json.dumps(read))
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

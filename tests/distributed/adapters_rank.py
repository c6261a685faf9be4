"""One rank of `test_adapters_on_ranks`: averages of LoRA adapters.

torchrun ... -m tests.distributed.adapters_rank <folder>
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from ladle_engine import average
from tests.distributed.start import end_rank
from tests.unit.engine.lora import OPTIONS

PLACEMENTS = ("replicated", "by-parameter", "by-checkpoint")
METHODS = {"methods": ["uniform", "twa"], "options": {"twa": {"steps": 6}}}


def run(folder: Path, placement: str, ranks: int) -> dict[str, float]:
    """Collective: method -> its loss on the select split."""
    outcome = average(
        folder / "sweep",
        folder / "val.npy",
        output=folder / f"{placement} {ranks}",
        method_options=METHODS,
        task_options=OPTIONS,
        placement=placement,
        adapter_rank=3,
    )
    return {score.method: score.select["loss"] for score in outcome.candidates}


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    found = {placement: run(folder, placement, ranks) for placement in PLACEMENTS}
    (folder / f"{ranks}-{rank}.json").write_text(json.dumps(found))
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""One rank of `test_curve_on_ranks`: a merge curve, whole on each rank and with a model that is cut over the ranks.

torchrun ... -m tests.distributed.curve_rank <folder>
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ladle_engine import curve
from ladle_engine.placements.base import SHARDED_MODEL
from tests.distributed.start import end_rank
from tests.unit.engine.toy import ToyTask, norm_net

WHOLE = "auto"
BEFORE, GROWN = ", before", ", grown"


def run(folder: Path, placement: str, ranks: int, name: str = "", **options: Any) -> Path:
    """Collective: where the curve is."""
    output = folder / f"{ranks} {placement}{name}"
    curve(
        folder / "checkpoints",
        folder / "val",
        output=output,
        task=ToyTask(norm_net),
        placement=placement,
        **options,
    )
    return output


def found(folder: Path, placement: str, ranks: int) -> Any:
    return json.loads((folder / f"{ranks} {placement}" / "curve.json").read_text())


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    ranks = dist.get_world_size()
    for placement in (WHOLE, SHARDED_MODEL):
        run(folder, placement, ranks)
        shorter = run(folder, placement, ranks, BEFORE, exclude=["step-4*", "step-5*"])
        run(folder, placement, ranks, GROWN, earlier=shorter)
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""One rank of `test_sets_on_ranks`: jobs with several validation sets of unequal sizes and weights.

torchrun ... -m tests.distributed.sets_rank <folder>
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ladle_engine import average
from ladle_engine.placements.base import REPLICATED, SHARDED_MODEL
from tests.distributed.start import end_rank
from tests.unit.engine.test_small_sets import TwoSets
from tests.unit.engine.toy import norm_net, plain_net

NETS = {"plain": plain_net, "norm": norm_net}
JOBS = (("plain", REPLICATED), ("norm", REPLICATED), ("plain", SHARDED_MODEL))
SETS = {"small": 21, "large": 700, "shown": 50}
WEIGHTS = {"small": 0.3, "large": 0.7}
METHODS: dict[str, dict[str, Any]] = {
    "last-k": {}, "greedy-soup": {}, "twa": {"steps": 6}, "pca": {"passes": 2, "optimiser": "lbfgs"},
    "psgd": {"steps": 4},
}  # fmt: skip


def run(folder: Path, net: str, placement: str, ranks: int) -> dict[str, dict[str, float]]:
    """Collective: method -> the loss by what judges, and on each set."""
    outcome = average(
        folder / net,
        {name: folder / str(count) for name, count in SETS.items()},
        output=folder / f"{net} {placement} {ranks}",
        task=TwoSets(NETS[net], batch_size=32),
        judge_by=WEIGHTS,
        method_options={"methods": list(METHODS), "options": {name: each for name, each in METHODS.items() if each}},
        placement=placement,
    )
    return {
        score.method: {"": score.select["loss"], **{name: each.select["loss"] for name, each in score.sets.items()}}
        for score in outcome.candidates
    }


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    ranks = dist.get_world_size()
    found = {f"{net} {placement}": run(folder, net, placement, ranks) for net, placement in JOBS}
    (folder / f"{ranks}-{dist.get_rank()}.json").write_text(json.dumps(found))
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

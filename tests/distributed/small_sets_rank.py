"""One rank of `test_small_sets`: jobs with fewer examples than a batch, with and without BatchNorm.

torchrun ... -m tests.distributed.small_sets_rank <folder>
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ladle_engine import EngineError, average
from ladle_engine.placements.base import REPLICATED, SHARDED_MODEL
from tests.distributed.start import end_rank
from tests.unit.engine.test_small_sets import TwoSets
from tests.unit.engine.toy import norm_net, plain_net

NETS = {"plain": plain_net, "norm": norm_net}
JOBS = (("plain", 4, REPLICATED), ("norm", 4, REPLICATED), ("norm", 5, SHARDED_MODEL), ("norm", 100, REPLICATED))
"""The net, how many examples there are, and the placement."""
TRAIN = 513
METHODS: dict[str, dict[str, Any]] = {
    "greedy-soup": {}, "twa": {"steps": 4}, "pca": {"passes": 2, "optimiser": "lbfgs"},
}  # fmt: skip


def make_sets(folder: Path) -> None:
    for count in {TRAIN, *(count for _, count, _ in JOBS)}:
        (folder / str(count)).mkdir()


def run(folder: Path, net: str, count: int, placement: str, ranks: int) -> dict[str, float]:
    """Collective: method -> the loss on the select split. BatchNorm's statistics are recomputed on other data."""
    outcome = average(
        folder / net,
        folder / str(count),
        output=folder / f"{net} {count} {placement} {ranks}",
        task=TwoSets(NETS[net], batch_size=128),
        train_set=folder / str(TRAIN),
        train_set_use="batchnorm",
        method_options={"methods": list(METHODS), "options": METHODS},
        placement=placement,
    )
    return {score.method: score.select["loss"] for score in outcome.candidates}


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    ranks = dist.get_world_size()
    found: dict[str, Any] = {}
    for net, count, placement in JOBS:
        try:
            found[f"{net} {count}"] = run(folder, net, count, placement, ranks)
        except EngineError as error:
            found[f"{net} {count}"] = error.message
    (folder / f"{ranks}-{dist.get_rank()}.json").write_text(json.dumps(found))
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

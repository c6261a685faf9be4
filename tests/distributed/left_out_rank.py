"""One rank of `test_left_out_on_ranks`: averages of checkpoints with heads of their own.

torchrun ... -m tests.distributed.left_out_rank <folder>
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ladle_engine import average
from tests.distributed.start import end_rank
from tests.unit.engine.toy import ToyTask, norm_net, plain_net

PLACEMENTS = ("replicated", "by-parameter", "by-checkpoint", "sharded-model")
OPTIONS = {
    "methods": ["uniform", "twa", "twa-layerwise"],
    "options": {"twa": {"steps": 6}, "twa-layerwise": {"steps": 6}},
}


def jobs(ranks: int) -> dict[str, dict[str, Any]]:
    """Name -> arguments of `average`."""
    taken = {"take_from": {"step-2.safetensors": "2"}, "skip_tensors": "0.bias"}
    plain = {"task": ToyTask(plain_net), **taken}
    found: dict[str, dict[str, Any]] = {
        f"plain {placement}": {**plain, "placement": placement}
        for placement in PLACEMENTS
        if ranks > 1 or placement != "sharded-model"
    }
    return found | {"norm": {"task": ToyTask(norm_net), "take_from": {"step-2.safetensors": "3"}, "skip_tensors": "1"}}


def run(folder: Path, name: str, given: dict[str, Any], ranks: int) -> dict[str, float]:
    """Collective: method -> its loss on the select split."""
    outcome = average(
        folder / name.partition(" ")[0], "data", output=folder / f"{name} {ranks}", method_options=OPTIONS, **given
    )
    return {score.method: score.select["loss"] for score in outcome.candidates}


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    found = {name: run(folder, name, given, ranks) for name, given in jobs(ranks).items()}
    (folder / f"{ranks}-{rank}.json").write_text(json.dumps(found))
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

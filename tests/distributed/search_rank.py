"""A rank of `test_search_on_ranks`: searches, with candidates or examples dealt to the ranks."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ladle_engine import average
from ladle_engine.evaluation import heats
from ladle_engine.evaluation.evaluate import evaluate
from ladle_engine.placements.base import BY_PARAMETER, REPLICATED
from tests.distributed.start import end_rank
from tests.unit.engine.searching import SignTask
from tests.unit.engine.toy import norm_net, plain_net

NETS = {"plain": plain_net, "norm": norm_net}
JOBS: Mapping[str, tuple[str, str, str, dict[str, Any]]] = {
    "axes, f1": ("plain", REPLICATED, "f1", {"budget": 25.0}),
    "groups, loss": ("plain", REPLICATED, "loss", {"over": "groups", "budget": 25.0, "share": 0.3}),
    "profile, generated": ("plain", REPLICATED, "exact", {"over": "profile", "budget": 25.0}),
    "axes, by parameter": ("plain", BY_PARAMETER, "f1", {"budget": 25.0}),
    "axes, batch norm": ("norm", REPLICATED, "loss", {"budget": 60.0}),
}
"""Name -> the network, the placement, the metric and the options."""


def run(folder: Path, job: str, ranks: int) -> dict[str, Any]:
    """Collective: what it is worth, and how it went."""
    net, placement, metric, options = JOBS[job]
    output = folder / f"{ranks} {job}"
    outcome = average(
        folder / net, folder / net, output=output, task=SignTask(NETS[net], count=1200, batch_size=32), method="search",
        method_options=options, placement=placement, metric=metric,
    )  # fmt: skip
    (score,) = (each for each in outcome.candidates if each.method == "search")
    return {"select": dict(score.select), "label": score.label}


def chosen(folder: Path, job: str, ranks: int) -> list[list[float]]:
    """K x G, once all ranks are done."""
    saved = json.loads((folder / f"{ranks} {job}" / "coefficients.json").read_text())
    found: list[list[float]] = saved["candidates"]["search"]["alpha"]
    return found


class Watched:
    """Counts how often this rank evaluated something by itself among others."""

    alone = 0

    @classmethod
    def evaluate(cls, model: Any, examples: Any, collectives: Any, **more: Any) -> Any:
        cls.alone += collectives.size < dist.get_world_size()
        return evaluate(model, examples, collectives, **more)


def main(folder: Path) -> None:
    vars(heats)["evaluate"] = Watched.evaluate
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    ranks, found = dist.get_world_size(), {}
    for job in JOBS:
        Watched.alone = 0
        found[job] = run(folder, job, ranks) | {"alone": Watched.alone}
    (folder / f"{ranks}-{dist.get_rank()}.json").write_text(json.dumps(found))
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

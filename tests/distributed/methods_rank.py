"""One rank of `test_methods_on_ranks`: runs every trained method, in several jobs and placements, through `average`.

torchrun ... -m tests.distributed.methods_rank <folder>
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ladle_engine import average
from ladle_engine.coefficients import RandomPart
from ladle_engine.placements.base import BY_CHECKPOINT, BY_NODE, BY_PARAMETER, REPLICATED, SHARDED_MODEL
from tests.distributed.start import end_rank
from tests.unit.engine.toy import ToyTask, plain_net

TRAINED = ("twa", "twa-layerwise", "twa-gram-schmidt", "pca", "learned-soup", "psgd", "random")
STEPS = 16
"""Enough for a learned prior to be fitted, and for P-SGD to settle its weights again."""

JOBS: dict[str, dict[str, dict[str, Any]]] = {
    "as they are": {method: {"steps": STEPS + 4} for method in TRAINED} | {"random": {"steps": STEPS, "dimensions": 3}},
    "uphill": {
        "greedy-soup": {},
        "twa": {"steps": STEPS, "sam_radius": 0.3, "start": "greedy-soup"},
        "twa-layerwise": {"steps": STEPS, "optimiser": "sgd", "learning_rate": 0.05, "start": "greedy-soup"},
        "pca": {"passes": 4, "optimiser": "lbfgs", "groups": "tensors"},
        "learned-soup": {"steps": STEPS, "groups": "layers", "start": "greedy-soup"},
        "psgd": {"steps": STEPS + 4, "groups": "layers", "start": "greedy-soup"},
        "random": {"steps": STEPS, "dimensions": 3, "groups": "layers", "start": "greedy-soup"},
    },
    "from a picked start": {
        "greedy-soup": {},
        "cached-outputs": {},
        "twa": {"steps": STEPS, "start": "auto"},
        "psgd": {"steps": STEPS, "start": "auto", "groups": "layers"},
    },
    "anew at each step": {"random": {"steps": STEPS, "dimensions": 3, "redraw": True, "groups": "layers"}},
    "with a base": {
        "model-stock": {},
        "wise-ft": {"to": "best"},
        "extrapolate": {"away_from": "base"},
        "twa-layerwise": {"ramp": 0.3},
    },
}
"""Job -> method -> its options."""

PLACED: Mapping[int, Mapping[str, tuple[str, ...]]] = {
    2: {
        "as they are": (BY_PARAMETER, SHARDED_MODEL),
        "uphill": (REPLICATED, BY_CHECKPOINT),
        "from a picked start": (REPLICATED,),
        "anew at each step": (BY_PARAMETER, BY_CHECKPOINT),
        "with a base": (REPLICATED, BY_PARAMETER, SHARDED_MODEL),
    },
    4: {
        "as they are": (REPLICATED, BY_CHECKPOINT),
        "uphill": (BY_NODE, SHARDED_MODEL),
        "from a picked start": (SHARDED_MODEL,),
        "anew at each step": (REPLICATED, SHARDED_MODEL),
        "with a base": (BY_CHECKPOINT, BY_NODE),
    },
}
"""Ranks -> job -> the placements in which it runs."""


def run(folder: Path, job: str, placement: str, ranks: int) -> Any:
    """Collective: the outcome of one job."""
    return average(
        folder / "checkpoints",
        folder / "checkpoints",
        output=folder / f"{ranks} {job} {placement}",
        task=ToyTask(plain_net),
        method_options={"methods": list(JOBS[job]), "options": JOBS[job]},
        placement=placement,
        base=folder / "base.safetensors" if job == "with a base" else None,
    )


def chosen(folder: Path, job: str, placement: str, ranks: int) -> dict[str, Tensor]:
    """Method -> float64: its coefficients and, for `random`, the weights of its directions."""
    saved = json.loads((folder / f"{ranks} {job} {placement}" / "coefficients.json").read_text())["candidates"]
    found = {method: torch.tensor(saved[method]["alpha"], dtype=torch.float64) for method in JOBS[job]}
    if "random" in saved:
        found["random directions"] = RandomPart.from_json(saved["random"]["random"]).weights_TMG
    return found


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    ranks = dist.get_world_size()
    if ranks == 4:
        # Two nodes of two ranks, as torchrun would say it.
        os.environ["LOCAL_WORLD_SIZE"] = "2"
    scores = {}
    for job, placements in PLACED[ranks].items():
        for placement in placements:
            outcome = run(folder, job, placement, ranks)
            scores[f"{job} {placement}"] = {score.method: score.select["loss"] for score in outcome.candidates}
    (folder / f"{ranks}-{dist.get_rank()}.json").write_text(json.dumps(scores))
    end_rank()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

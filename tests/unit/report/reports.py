"""Reports to draw: one with everything that a report can have, from a few to hundreds of checkpoints."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

METHODS = ("best", "uniform", "last-k", "twa", "twa-layerwise")
GAINS = (0.0, -0.019, 0.009, 0.033, 0.024)


def report(K: int = 6, G: int = 3, *, winner: str = "twa", names: Sequence[str] | None = None) -> dict[str, Any]:
    """K checkpoints of a run in G groups of layers, with every key of a report."""
    seed = random.Random(0)
    named = list(names or (f"step-{100 * (i + 1)}.safetensors" for i in range(K)))
    alone = [0.7 + 0.2 * i / K for i in range(K)]
    weights = [[(i + 1 + seed.random() - (i == 0)) for i in range(K)] for _ in range(G)]
    layered = [[weight / sum(row) for weight in row] for row in weights]
    of_method = {
        "best": [[0.0] * (K - 1) + [1.0]],
        "uniform": [[1 / K] * K],
        "last-k": [[0.0] * (K - 2) + [0.5, 0.5]],
        "twa": layered[:1],
        "twa-layerwise": layered,
    }
    candidates = [
        {
            "method": method,
            "label": f"best ({named[-1]})" if method == "best" else method,
            "select": means(alone[-1] + gain),
            "fit": means(alone[-1] + gain),
            "gain": gain,
            "gain_low": gain and gain - 0.02,
            "gain_high": gain and gain + 0.02,
            "sets": {},
            "coefficients": of_method[method],
            "groups": [f"layer.{g}" for g in range(G)] if method == "twa-layerwise" else ["model"],
            "statistics": "own",
            "curve": [1.0, 0.5, 0.4] if method.startswith("twa") else [],
            "worse_on": [],
            "seconds": 1.5,
        }
        for method, gain in zip(METHODS, GAINS, strict=True)
    ]
    won = next(row for row in candidates if row["method"] == winner)
    places = [(3 * math.cos(i), 3 * math.sin(i)) for i in range(K)]
    distances = [[math.dist(a, b) for b in places] for a in places]
    steps = list(range(0, 200, 2))
    return {
        "format": 1,
        "winner": winner,
        "metric": {"name": "accuracy", "higher_is_better": True},
        "task": "image-classification",
        "gain": {"value": won["gain"], "low": won["gain_low"], "high": won["gain_high"]},
        "candidates": candidates,
        "checkpoints": [
            {
                "name": name,
                "step": 100 * (i + 1),
                "fit": {"examples": 256, "means": means(alone[i])},
                "select": {"examples": 260, "means": means(alone[i])},
                "distance_to_centre": 3.0,
                "files": {name: f"{i:064x}"},
                "not_its_own": [],
            }
            for i, name in enumerate(named)
        ],
        "geometry": {
            "distances": distances,
            "cosines": [[1 - d / 3 for d in row] for row in distances],
            "order": named,
        },
        "left_out": {"taken_from": {named[0]: ["head.weight"]}, "dropped": ["aux.weight"], "in_result": {}},
        "num_parameters": 11_689_512,
        "splits": {"fit": 256, "select": 260, "fit_judged": 256, "seed": 0},
        "validation_sets": {},
        "statistics": {"mixtures": "recomputed", "fit_loss": {"averaged": 0.6, "recomputed": 0.2}, "examples": 256},
        "memory": {
            "placement": "replicated",
            "precision": "bfloat16",
            "parts": {"model": 46_800_000, "directions": 210_000_000, "vectors": 0},
            "available_bytes": 12_000_000_000,
            "needed_bytes": 256_800_000,
            "reason": "they fit",
        },
        "settings": {"ckpt_dir": "/data/runs/resnet18/checkpoints", "val_set": "/data/val.npz", "method": "auto"},
        "provenance": {"job_id": "d9024bf2e1be66d3ec0d", "attempt": "1"},
        "warnings": ["`step-300` is unlike its neighbours."],
        "inputs": {"side_files": {"config.json": f"{7:064x}"}, "data": {"val_set": {"sha256": f"{9:064x}"}}},
        "versions": {"ladle": "0.1.0", "torch": "2.13.0"},
        "files": {"model.safetensors": f"{11:064x}"},
        "merge_curve": {
            "metric": "accuracy",
            "points": [
                {
                    "checkpoint": name,
                    "step": 100 * (i + 1),
                    "alone": alone[i],
                    "alone_examples": 260,
                    "average": None if i == 1 else alone[i] + 0.01 * i,
                    "averaged": i + 1,
                    "average_examples": 0 if i == 1 else 64,
                }
                for i, name in enumerate(named)
            ],
        },
        "training": {
            "twa": {
                "steps": steps,
                "loss": [0.2 + 0.6 * math.exp(-step / 25) for step in steps],
                "groups": ["model"],
                "coefficients": [[weight * step / 200 for weight in layered[0]] for step in steps],
                "prior": {"kind": "learned", "scale": 0.31, "slope": 0.42},
                "ended": "steps",
                "ended_at": 200,
                "best_at": 171,
            }
        },
        "diagnosis": diagnosis(named, places),
        "stages": [
            {"stage": "load", "seconds": 3.0, "bytes_read": 300_000_000, "bytes_written": 0},
            {"stage": "train", "seconds": 20.0, "bytes_read": 0, "bytes_written": 0},
        ],
        "tensors": {"averaged": 62, "copied": 2, "recomputed": 40, "left_out": 1, "copied_why": {"counters": 2}},
    }


def means(accuracy: float) -> dict[str, float]:
    """The metrics of one model."""
    return {"accuracy": accuracy, "loss": 1.1 - accuracy}


def diagnosis(names: Sequence[str], places: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Two basins, a loss that is not finite at one place, and a plane."""
    axis = [float(x) for x in range(-5, 6)]
    loss: list[list[float | None]] = [[0.2 + 0.01 * (x * x + y * y) for x in axis] for y in axis]
    loss[0][0] = None
    return {
        "examples": 256,
        "loss": "loss",
        "segments": [
            {"checkpoint": name, "t": [0, 0.25, 0.5, 0.75, 1], "loss": [0.3, 0.2, None, 0.2, 0.3], "barrier": None}
            for name in names[:13]
        ],
        "basins": [list(names[1:]), [names[0]]],
        "verdict": f"`{names[0]}` lies in another basin. It gets no weight in `twa`.",
        "plane": {
            "x": axis,
            "y": axis,
            "loss": loss,
            "unit": "distance in the weights",
            "points": {"best": [1.0, 0.0], "uniform": [0.0, 0.0], "winner": [0.5, 0.8]},
            "third": "winner",
            "checkpoints": {name: list(place) for name, place in zip(names, places, strict=True)},
        },
    }


NEW_KEYS = ("merge_curve", "training", "diagnosis", "stages", "tensors")
"""Reports of earlier versions have none of them."""


def older(**options: Any) -> dict[str, Any]:
    """One as they were before."""
    return {name: part for name, part in report(**options).items() if name not in NEW_KEYS}

"""What each page's snippets find in their folder and in their namespace: the things that a reader has already."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from tests.builders import make_base, make_checkpoints, make_val_set

Names = dict[str, Any]
World = Callable[[Path], Names]


def a_run_of_the_example(folder: Path) -> Names:
    """`path/to/checkpoints` and `path/to/val.npz`, for the example's task."""
    make_checkpoints(folder / "path/to/checkpoints")
    make_val_set(folder / "path/to/val.npz")
    return {}


def nothing(folder: Path) -> Names:
    """A snippet that has all it needs."""
    return {}


def a_run_to_inspect(folder: Path) -> Names:
    make_checkpoints(folder / "runs/42/checkpoints")
    return {}


def a_result(folder: Path) -> Names:
    """`result`, made of `path/to/checkpoints`, with a soup among its candidates."""
    from ladle_engine import average

    a_run_of_the_example(folder)
    options = {"methods": ["best", "uniform", "greedy-soup"]}
    average(
        folder / "path/to/checkpoints", folder / "path/to/val.npz", output=folder / "result", method_options=options
    )
    return {}


def fine_tunes_of_a_base(folder: Path) -> Names:
    """`sweep`, trained from `models/pretrained`, and a `result` between them."""
    from ladle_engine import average

    make_checkpoints(folder / "sweep")
    make_val_set(folder / "val.npz")
    (folder / "models/pretrained").mkdir(parents=True)
    first = sorted((folder / "sweep").glob("*.safetensors"))[0]
    base = make_base(folder / "models/pretrained/model.safetensors", first).parent
    average(folder / "sweep", folder / "val.npz", output=folder / "result", method="wise-ft", base=base)
    return {}


def two_architectures(folder: Path) -> Names:
    """Of a language model with a classifier, and icefall's files with running averages."""
    names = ("model.embed_tokens.weight", "lm_head.weight", "classifier.weight", "layer.weight")
    for step in (500, 1000):
        checkpoint = folder / f"path/to/checkpoints/checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        save_file({name: torch.randn(4, 4) for name in names}, checkpoint / "model.safetensors")
    (folder / "exp").mkdir()
    for step in (40_000, 60_000):
        file = {"model": {"w": torch.randn(4)}, "model_avg": {"w": torch.randn(4)}, "batch_idx_train": step}
        torch.save(file, folder / f"exp/checkpoint-{step}.pt")
    return {}


def _states(folder: Path, model: nn.Module, *, suffix: str = "safetensors", count: int = 3) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        state = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
        path = folder / f"step-{number}.{suffix}"
        if suffix == "safetensors":
            save_file(state, path)
        else:
            torch.save(state, path)


def a_loop_of_ones_own(folder: Path) -> Names:
    """`runs/mine` of the network in `docs/tasks/function.md`."""
    _states(folder / "runs/mine", nn.Linear(4, 3))
    return {}


def any_module(folder: Path) -> Names:
    _states(folder / "runs/mine", nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3)))
    torch.save((torch.randn(120, 20), torch.randint(3, (120,))), folder / "val.pt")
    return {}


def _loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def a_head_stage(folder: Path) -> Names:
    """A training of the head stage: a network, batches, a step, and data."""
    rows = torch.utils.data.TensorDataset(torch.randn(60, 4), torch.arange(60) % 3)
    model = nn.Linear(4, 3)

    def train_on(batch: Any) -> None:
        with torch.no_grad():
            model.weight.add_(0.1 * torch.randn_like(model.weight))

    return {
        "model": model, "loss": _loss, "val": rows, "train": rows, "batches": range(30), "steps_per_epoch": 10,
        "train_on": train_on,
    }  # fmt: skip


def a_plug_in(folder: Path) -> Names:
    """The names of a plug-in's files, and the example's task in the place of the reader's."""
    from ladle_small_cnn import SmallCnnTask

    from ladle_engine.tasks.simple import SimpleTask

    make_checkpoints(folder / "tests/data/checkpoints")
    make_val_set(folder / "tests/data/val.npz", count=40)
    return {"SimpleTask": SimpleTask, "MyTask": SmallCnnTask}


def a_report(folder: Path) -> Names:
    """The report of a sure gain, as the nightly script is called with it."""
    import sys

    report = {"winner": "twa", "metric": {"name": "accuracy"}, "gain": {"value": 0.02, "low": 0.01, "high": 0.03}}
    (folder / "report.json").write_text(json.dumps(report))
    sys.argv = ["better.py", "report.json"]
    return {}


def of_other_tools(folder: Path) -> Names:
    """The folders of `docs/migration.md`, each as small as it can be."""
    model = nn.Linear(4, 3)
    _states(folder / "runs/mine", model, suffix="pt", count=4)
    states = [{"w": torch.randn(4, 4)} for _ in range(6)]
    for path in ("output/train/run", "checkpoints", "run", "models/a", "models/b"):
        (folder / path).mkdir(parents=True)
    for number, state in enumerate(states):
        ema = {"w": state["w"] / 2}
        torch.save(
            {"state_dict": state, "state_dict_ema": ema}, folder / f"output/train/run/checkpoint-{number}.pth.tar"
        )
        torch.save({"model": state}, folder / f"checkpoints/checkpoint{number + 1}.pt")
        step = {"model": state, "generator": {"b": torch.randn(4)}}
        torch.save(step, folder / f"run/model_step_{10 * number + 10}.pt")
    for name, state in zip("ab", states, strict=False):
        save_file(state, folder / f"models/{name}/model.safetensors")
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    return {"model": model, "loss": _loss, "validation": torch.utils.data.TensorDataset(x, y)}


def a_result_to_read(folder: Path) -> Names:
    """`report.json` and `report.html`, as in a result's folder."""
    from ladle_report import page
    from tests.unit.report.reports import report

    (folder / "report.json").write_text(json.dumps(report()))
    (folder / "report.html").write_text(page(report()))
    return {}


WORLDS: dict[str, World] = {
    "README.md": a_run_of_the_example,
    "docs/base.md": fine_tunes_of_a_base,
    "docs/checkpoints.md": two_architectures,
    "docs/engine.md": a_run_of_the_example,
    "docs/head-stage.md": a_head_stage,
    "docs/how-to/any-module.md": any_module,
    "docs/how-to/every-night.md": a_report,
    "docs/inspect.md": a_run_to_inspect,
    "docs/merge-curve.md": a_run_of_the_example,
    "docs/migration.md": of_other_tools,
    "docs/output.md": a_result,
    "docs/report.md": a_result_to_read,
    "docs/tasks/function.md": a_loop_of_ones_own,
    "docs/tasks/your-own.md": a_plug_in,
    "docs/understand/exactness.md": a_run_of_the_example,
    "docs/understand/why.md": nothing,
    "docs/validation-sets.md": nothing,
}
"""The pages whose Python runs in the tests' own process, from top to bottom, in one namespace."""

ELSEWHERE = {
    "docs/from-training.md": "tests/integration/test_callbacks.py",
    "docs/rest.md": "tests/integration/test_api_docs.py",
    "docs/start.md": "tests/docs/long/test_start.py",
    "docs/how-to/every-night.md": "tests/docs/long/test_how_to.py",
    "docs/how-to/trainer-run.md": "tests/docs/long/test_how_to.py",
    "docs/how-to/lora-sweep.md": "tests/docs/long/test_how_to.py",
}
"""The pages whose other snippets have a test of their own, because they need a service or a training."""

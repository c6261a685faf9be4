"""Whole modules in a file (`torch.save(model)`): read through their tensors, by the names of their state dict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
import torch
from ladle_small_cnn import SmallCnn
from safetensors.torch import load_file
from torch import Tensor, nn

from ladle_engine import CheckpointError, TaskError, average, combine_checkpoints, rebuild
from ladle_engine.checkpoints.pickles.pickle_file import stored_tensors
from ladle_engine.storage.input_file import InputFile
from tests.builders import CONFIG, make_checkpoints, make_val_set


class Block(nn.Module):
    def __init__(self, shared: nn.Parameter | None = None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.weight = nn.Parameter(torch.randn(3, 3)) if shared is None else shared
        self.register_buffer("mask", torch.ones(3), persistent=False)
        self.register_buffer("scale", torch.rand(2))
        self.register_buffer("absent", None)
        self.register_parameter("bias", None)
        self.note = "a text"

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: Any) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x @ self.weight) * self.mask


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.tied = Block(self.blocks[0].weight)
        self.again = self.blocks[1]
        self.heads = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Sequential(nn.Conv1d(3, 2, 1), nn.ReLU())})
        self.alone = nn.Parameter(torch.tensor(1.5), requires_grad=False)
        self.lstm = nn.LSTM(3, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.empty = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](x)


def traced() -> nn.Module:
    """Made by a function that is called with its attributes."""
    return torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))


def hooked() -> nn.Module:
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2)), nn.utils.spectral_norm(nn.Linear(2, 2)))
    model.register_forward_hook(print)
    return model


class Agent:
    """No module, but it has one."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.steps = [1, 2]


MODULES: dict[str, Callable[[], nn.Module]] = {
    "a linear": lambda: nn.Linear(3, 2),
    "a network": Net,
    "half precision": lambda: Net().half(),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)),
    "data parallel": lambda: nn.DataParallel(nn.Linear(2, 2)),
    "compiled": lambda: torch.compile(nn.Linear(2, 2)),  # type: ignore[dict-item]  # a module as well
    "norms by hooks": hooked,
    "traced": traced,
    "an encoder": lambda: nn.TransformerEncoderLayer(4, 2, 8),
}

AROUND: dict[str, Callable[[nn.Module], Any]] = {
    "alone": lambda model: model,
    "under a key": lambda model: {"model": model, "epoch": 3},
    "in a class of its own": Agent,
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_the_tensors_of_a_module_are_those_of_its_state_dict(
    tmp_path: Path, make: Callable[[], nn.Module], around: Callable[[nn.Module], Any], zipped: bool
) -> None:
    model = make()
    torch.save(around(model), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    named = {name.removeprefix("_orig_mod."): each for name, each in model.state_dict().items()}
    expected = {name: each for name, each in named.items() if isinstance(each, Tensor)}
    with InputFile(tmp_path / "x.pt") as file:
        stored = stored_tensors(file)
        found = {name: place.dense(file) for name, place in stored.tensors.items()}
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
    assert "a whole module (`" in stored.notes[0]


def test_what_ultralytics_saves_is_averaged(tmp_path: Path) -> None:
    """`BaseTrainer.save_model` of 8.3: the average in half precision, no model, and arguments of every kind."""
    folder = tmp_path / "weights"
    folder.mkdir()
    models = [nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).half() for _ in range(2)]
    for number, model in enumerate(models):
        torch.save(
            {
                **{"epoch": number, "best_fitness": 0.5, "model": None, "ema": model, "updates": 3, "version": "8"},
                **{"optimizer": {"state": {}}, "train_args": {"data": Path("x.yaml")}, "date": "2024", "git": None},
            },
            folder / f"epoch{number}.pt",
        )
    for use_ema in (False, True):
        out = combine_checkpoints(folder, output=tmp_path / f"out-{use_ema}", use_ema=use_ema)
        found = load_file(out / "model.safetensors")
        for name, tensor in models[0].state_dict().items():
            other = models[1].state_dict()[name]
            mean = ((tensor.double() + other.double()) / 2).to(tensor.dtype) if tensor.is_floating_point() else other
            assert torch.equal(found[name], mean), name


def test_a_task_that_cannot_build_the_model_says_that_a_module_was_saved(tmp_path: Path) -> None:
    for number in (1, 2):
        torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / f"epoch-{number}.pt")
    with pytest.raises(TaskError, match=r"a whole module \(`torch.nn.modules.container.Sequential`\)") as caught:
        average(tmp_path, make_val_set(tmp_path / "val.npz", count=20), output=tmp_path / "out")
    assert "save `model.state_dict()`" in caught.value.message


def test_a_module_of_a_class_that_the_task_builds_is_averaged(tmp_path: Path) -> None:
    plain = make_checkpoints(tmp_path / "plain", count=2)
    folder = tmp_path / "modules"
    folder.mkdir()
    copyfile(plain / "config.json", folder / "config.json")
    for path in sorted(plain.glob("*.safetensors")):
        model = SmallCnn(**CONFIG, width=4, batch_norm=False)
        model.load_state_dict(load_file(path))
        torch.save(model, folder / f"{path.stem}.pt")
    out = average(folder, make_val_set(tmp_path / "val.npz", count=40), output=tmp_path / "out", method="uniform")
    mean = rebuild(out.folder, folder, output=tmp_path / "mean", candidate="uniform")
    expected = load_file(combine_checkpoints(plain, output=tmp_path / "expected") / "model.safetensors")
    found = load_file(mean / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_module_within_itself_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model._modules["again"] = model
    torch.save(model, tmp_path / "x.pt")
    with InputFile(tmp_path / "x.pt") as file, pytest.raises(CheckpointError, match="modules within themselves"):
        stored_tensors(file)


def test_modules_that_are_many_times_in_each_other_are_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    for _ in range(60):
        model = nn.Sequential(model, model)
    torch.save(model, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 100_000
    with (
        InputFile(tmp_path / "x.pt") as file,
        pytest.raises(CheckpointError, match="modules within themselves, or more"),
    ):
        stored_tensors(file)

"""What training scripts save around the weights: it is left out, whatever classes it has."""

from __future__ import annotations

import argparse
import datetime
import enum
import functools
import os
import pickle
import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ladle_engine import CheckpointError, combine_checkpoints, discover
from ladle_engine.checkpoints.pickles.pickle_file import stored_tensors
from ladle_engine.checkpoints.pickles.plain import pickled_value
from ladle_engine.progress import ProgressEvent, Warned
from ladle_engine.storage.input_file import InputFile


def state(number: int) -> dict[str, Tensor]:
    return {"w": torch.full((2,), float(number)), "b": torch.tensor(float(number))}


def optimizer() -> dict[str, Any]:
    return {"state": {0: {"exp_avg": torch.ones(2), "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}


def combined(folder: Path, make: Callable[[int], object]) -> tuple[dict[str, Tensor], list[str]]:
    """The model, and what was said."""
    folder.mkdir(exist_ok=True)
    said: list[str] = []

    def listen(event: ProgressEvent) -> None:
        if isinstance(event, Warned):
            said.append(event.message)

    for number in (1, 2):
        torch.save(make(number), folder / f"epoch-{number}.pt")
    return load_file(combine_checkpoints(folder, output=folder / "out", progress=listen) / "model.safetensors"), said


READ: dict[str, Callable[[int], object]] = {
    "bare": state,
    "ordered": lambda i: OrderedDict(state(i)),
    "a module's own": lambda i: with_metadata(state(i)),
    "under state_dict": lambda i: {
        "state_dict": state(i),
        "epoch": 3,
        "arch": "resnet18",
        "best_acc1": torch.tensor(0.9),
    },
    "with everything": lambda i: {
        "model": state(i),
        "optimizer": optimizer(),
        "lr_scheduler": {"last_epoch": 3, "milestones": Counter({30: 1})},
        "scaler": {"scale": 65536.0},
        "rng_state": torch.get_rng_state(),
        "python_rng": random.getstate(),
        "numpy_rng": np.random.get_state(),
        "best": np.float64(0.9),
        "accuracy": np.float32(0.9),
        "step": np.int64(3),
        "done": np.bool_(True),
        "args": {"lr": 0.1, "betas": (0.9, 0.99), "name": None},
        "loss": torch.tensor([0.3]),
    },
    "with a namespace": lambda i: {
        "state_dict": state(i),
        "args": argparse.Namespace(lr=0.1, mean=[0.5], inner=argparse.Namespace(state_dict={"w": torch.ones(9)})),
    },
    "flat with a namespace": lambda i: {**state(i), "opt": argparse.Namespace(lr=0.1)},
    "flat with an epoch": lambda i: {**state(i), "epoch": 3},
    "flat with an optimiser": lambda i: {**state(i), "optimizer": {}, "lr_scheduler": optimizer()},
    "flat with a full optimiser": lambda i: {**state(i), "optimizer_state_dict": optimizer()},
    "flat with the loss reached": lambda i: {**state(i), "loss": torch.tensor(0.1 * i), "val_loss": torch.tensor(1)},
    "flat with extra state": lambda i: {**state(i), "layer._extra_state": None},
    "flat with a dict as extra state": lambda i: {**state(i), "layer._extra_state": {"amax": torch.ones(3)}},
    "flat with a list and a text": lambda i: {
        **state(i),
        "classes": ["a", "b"],
        "version": "1.0",
        "size": torch.Size([2]),
    },
    "flat with a number of numpy's": lambda i: {**state(i), "best": np.float64(1.0)},
    "lightning": lambda i: {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state(i),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [optimizer()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1},
    },
    "under a name of its own": lambda i: {"generator_state": state(i), "epoch": 3, "optim_g": optimizer()},
    "under a name beside a loss": lambda i: {"netG": state(i), "loss": torch.tensor(0.3), "iters": [1, 2]},
    "twice nested": lambda i: {"checkpoint": {"model_state": state(i), "epoch": 3}},
    "the same dict twice": lambda i: twice(state(i)),
}


def with_metadata(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    model = nn.Module()
    for name, tensor in tensors.items():
        model.register_parameter(name, nn.Parameter(tensor))
    return model.state_dict()


def twice(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {"first": tensors, "again": tensors}


@pytest.mark.parametrize("make", READ.values(), ids=READ)
def test_the_weights_are_found_among_what_trainers_save(tmp_path: Path, make: Callable[[int], object]) -> None:
    model, said = combined(tmp_path / "in", make)
    assert {name: tensor.tolist() for name, tensor in model.items()} == {"w": [1.5, 1.5], "b": 1.5}
    assert all("left out, because they are not weights" in message for message in said)


def test_what_stands_among_the_tensors_and_is_left_out_is_said_once(tmp_path: Path) -> None:
    _, said = combined(tmp_path / "in", lambda i: {**state(i), "epoch": i, "optimizer": optimizer()})
    assert said == ["`epoch-1.pt` and 1 more: left out, because they are not weights: `epoch`, `optimizer`."]
    _, said = combined(tmp_path / "nested", lambda i: {"model": state(i), "epoch": i, "optimizer": optimizer()})
    assert said == []


AVERAGES: dict[str, tuple[Callable[[int], object], str]] = {
    "ema beside": (
        lambda i: {"model": state(i), "ema": state(9 * i)},
        "the model under `model` is used, and the average (EMA) under `ema`",
    ),
    "timm": (
        lambda i: {"state_dict": state(i), "state_dict_ema": state(9 * i), "epoch": 3},
        "the model under `state_dict` is used, and the average (EMA) under `state_dict_ema`",
    ),
    "basicsr": (
        lambda i: {"params": state(i), "params_ema": state(9 * i)},
        "the model under `params` is used, and the average (EMA) under `params_ema`",
    ),
    "unknown names": (
        lambda i: {"network": state(i), "ema_network": state(9 * i)},
        "the model under `network` is used, and the average (EMA) under `ema_network`",
    ),
    "alone": (lambda i: {"params_ema": state(i)}, "only the average (EMA) under `params_ema` is there, and is used"),
    "alone with a step": (
        lambda i: {"model_ema": state(i), "optimizer": optimizer()},
        "only the average (EMA) under `model_ema` is there, and is used",
    ),
}


@pytest.mark.parametrize(("make", "words"), AVERAGES.values(), ids=AVERAGES)
def test_an_average_beside_the_model_is_told_of(tmp_path: Path, make: Callable[[int], object], words: str) -> None:
    model, said = combined(tmp_path / "in", make)
    assert model["w"].tolist() == [1.5, 1.5]
    ending = "" if words.startswith("only") else " is not (`use_ema=` takes it)"
    assert said == [f"`epoch-1.pt` and 1 more: {words}{ending}."]


def test_the_settings_of_an_average_are_no_average(tmp_path: Path) -> None:
    _, said = combined(tmp_path / "in", lambda i: {"model": state(i), "ema": {"decay": 0.99}})
    assert said == []


INERT: dict[str, Callable[[int], object]] = {
    "a class in a namespace": lambda i: {"state_dict": state(i), "args": argparse.Namespace(config=Config())},
    "a class within": lambda i: {"model": state(i), "extra": {"config": [1, {"inner": Config()}]}},
    "a class among the tensors": lambda i: {**state(i), "config": Config()},
    "a path": lambda i: {"model": state(i), "hyper_parameters": {"root": Path("data")}},
    "a subclass of Tensor": lambda i: {"w": state(i)["w"].as_subclass(Mine), "b": state(i)["b"]},
    "a function": lambda i: {**state(i), "collate": combined, "activation": nn.functional.relu},
    "a default dict": lambda i: {"model": state(i), "logs": defaultdict(list, a=[1])},
    "state in a default dict": lambda i: {"model": defaultdict(dict, state(i))},
    "a dict of a class of its own": lambda i: {"model": Settings(state(i)), "options": Settings(a=1)},
    "an enum": lambda i: {"model": state(i), "mode": Mode.FAST, **{Mode.FAST.name: {Mode.FAST: Mode}}},
    "a whole optimiser": lambda i: {
        "model": state(i),
        "optimizer": torch.optim.Adam([torch.ones(3, requires_grad=True)]),
        "tool": torch.optim.SGD([torch.ones(3, requires_grad=True)], lr=0.1),
    },
    "a partial function": lambda i: {"model": state(i), "make": functools.partial(nn.Linear, 3)},
    "dates, sets and named tuples": lambda i: {
        **{"model": state(i), "when": datetime.datetime(2024, 1, 2), "seen": {1, 2}, "frozen": frozenset("ab")},
        **{"point": Point(1, 2), "queue": deque([1, 2], 3), "fraction": Fraction(1, 3), "text": b"\xff\x00"},
    },
    "an array beside": lambda i: {"model": state(i), "mean": np.ones(3), "more": [np.ones(3), np.array(["a", None])]},
    "an array in a list among the tensors": lambda i: {**state(i), "meta": {"mean": np.ones(3)}},
    "an object that holds the model": lambda i: Agent(state(i)),
    "a device, a type and a generator": lambda i: {
        **{"model": state(i), "device": torch.device("cpu"), "dtype": torch.float16, "shape": torch.Size([1])},
        "generator": torch.get_rng_state(),
    },
}
"""What no weights-only load takes: inert here."""


@dataclass
class Config:
    """A class of the user's."""

    lr: float = 0.1


class Point(NamedTuple):
    x: int
    y: int


class Settings(dict[str, Any]):
    """A dict with more to it."""


class Mode(enum.Enum):
    FAST = 1


class Agent:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.model = tensors
        self.steps = 3


class Mine(Tensor):
    """A tensor of the user's."""


@pytest.mark.parametrize("make", INERT.values(), ids=INERT)
@pytest.mark.parametrize("save", [{}, {"pickle_protocol": 5}, {"_use_new_zipfile_serialization": False}], ids=str)
def test_objects_of_any_class_do_not_matter(
    tmp_path: Path, make: Callable[[int], object], save: dict[str, Any]
) -> None:
    for number in (1, 2):
        torch.save(make(number), tmp_path / f"epoch-{number}.pt", **save)
    model = load_file(combine_checkpoints(tmp_path, output=tmp_path / "out") / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in model.items()} == {"w": [1.5, 1.5], "b": 1.5}


REFUSED: dict[str, tuple[Callable[[int], object], str, str]] = {
    "a program": (
        lambda i: {"model": state(i), "extra": {"config": [1, {"inner": Runs()}]}},
        "its entry `extra` / `config` / `inner` asks for `posix.system`, which runs a program",
        "unsafe-checkpoint",
    ),
    "an array among the weights": (
        lambda i: {**state(i), "scale": np.ones(3)},
        "`scale` in `{file}` is a numpy array",
        "unsupported-tensors",
    ),
    "arrays alone": (lambda i: {"w": np.ones(3)}, "`w` in `{file}` is a numpy array", "unsupported-tensors"),
    "a dict among the weights": (
        lambda i: {**state(i), "head": {"w": torch.ones(2)}},
        "holds tensors and, under `head`, more of them in a dict",
        "corrupt-checkpoint",
    ),
    "two models": (
        lambda i: {"generator": state(i), "discriminator": state(i)},
        "must hold one state dict, but `generator` and `discriminator` each hold one",
        "corrupt-checkpoint",
    ),
    "numbers alone": (lambda i: {"epoch": 3, "loss": 0.1}, "holds a dict of `epoch`, `loss`", "corrupt-checkpoint"),
    "a list": (lambda i: [torch.ones(2)], "holds a list", "corrupt-checkpoint"),
    "an object": (lambda i: Path("a"), "holds a `pathlib.", "corrupt-checkpoint"),
    "an object among the weights": (
        lambda i: {**state(i), "scale": torch.ones(2).to_sparse()},
        "`scale` in `{file}` is a sparse tensor",
        "unsupported-tensors",
    ),
}


class Runs:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize(("make", "words", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_named_by_its_entry(
    tmp_path: Path, make: Callable[[int], object], words: str, code: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        combined(tmp_path, make)
    assert caught.value.code == code, caught.value
    assert words.replace("{file}", str(tmp_path / "epoch-2.pt")) in caught.value.message
    assert str(tmp_path / "epoch-2.pt") in caught.value.message
    if code == "unsafe-checkpoint":
        assert "It was not run. Do not load this file with another program" in caught.value.message


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:.torch.load. received a zip file")
def test_a_torchscript_archive_is_named_as_one(tmp_path: Path) -> None:
    for number in (1, 2):
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / f"epoch-{number}.pt")
    with pytest.raises(CheckpointError, match=r"it is in TorchScript format.*Convert it in Python: `torch\.save"):
        discover(tmp_path)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_every_pickle_protocol_of_torch_is_read(tmp_path: Path, protocol: int) -> None:
    for number in (1, 2):
        torch.save(state(number), tmp_path / f"{number}.pt", pickle_protocol=protocol)
    assert set(discover(tmp_path).tensors) == {"w", "b"}


PLAIN: dict[str, Any] = {
    "numbers": [1, -3, 300, 70_000, 10**40, 2.5, True, False, None],
    "texts": ["é\n", "", "\\x41", "x" * 300, "\U0001f600"],
    "bytes": [b"\xff\x00", b"", b"a" * 300],
    "deep": {"a": ({"b": [()]}, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))},
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_every_protocol_are_themselves(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({**PLAIN, "array": bytearray(b"ab"), "set": {1}, "config": Config(0.5)}, protocol))
    with InputFile(path) as file:
        value = pickled_value(file)
    assert {key: value[key] for key in PLAIN} == PLAIN
    assert list(value["set"]) == [1]
    assert (value["config"].name, value["config"].attributes) == (f"{__name__}.Config", {"lr": 0.5})


def test_a_plain_pickle_says_that_torch_save_did_not_write_it(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"w": [1.0]}))
    with InputFile(tmp_path / "x.pt") as file, pytest.raises(CheckpointError, match="it is a plain pickle, which"):
        stored_tensors(file)


def self_referring() -> dict[str, Any]:
    value: dict[str, Any] = {"epoch": 1}
    value |= {f"k{number}": value for number in range(300)}
    value["model"] = value
    return value


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"w": torch.ones(2)}
    for _ in range(levels):
        value = {"model": value}
    return value


@pytest.mark.parametrize("make", [self_referring, lambda: deep(6), lambda: deep(3000)], ids=["itself", "six", "3000"])
def test_dicts_within_themselves_or_too_deep_are_refused(tmp_path: Path, make: Callable[[], object]) -> None:
    # torch.save recurses; the file is small all the same.
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        torch.save(make(), tmp_path / "x.pt")
    finally:
        sys.setrecursionlimit(limit)
    with (
        InputFile(tmp_path / "x.pt") as file,
        pytest.raises(CheckpointError, match="must hold a state dict of tensors") as caught,
    ):
        stored_tensors(file)
    assert caught.value.code == "corrupt-checkpoint"


def test_loading_leaves_torchs_list_of_safe_classes_as_it_was(tmp_path: Path) -> None:
    before = set(map(str, torch.serialization.get_safe_globals()))
    torch.save({"model": state(1), "best": np.float64(1.0)}, tmp_path / "x.pt")
    with InputFile(tmp_path / "x.pt") as file:
        assert stored_tensors(file).tensors.keys() == {"w", "b"}
    assert set(map(str, torch.serialization.get_safe_globals())) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pt", weights_only=True)

"""`average` of a notebook's own model, loss and data: every kind of data, and every mistake told in words."""

from __future__ import annotations

import functools
import json
import re
from collections import UserDict, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from ladle_engine import DataError, EngineError, Outcome, TaskError, average
from ladle_engine.average import precheck
from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.metrics import ratio
from tests.unit.engine.toy import ToyData, ToyTask, norm_net, plain_net, write_checkpoints

COUNT = 64
TWA: dict[str, Any] = {"method": "twa", "method_options": {"steps": 6}}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoints(folder / "plain", plain_net)
    write_checkpoints(folder / "norm", norm_net)
    return folder / "plain"


@pytest.fixture
def run(checkpoints: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """`average` with good arguments, but for those that are given."""

    def run(**given: Any) -> Outcome:
        numbered = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        arguments = {"ckpt_dir": checkpoints, "model": plain_net(), "loss": squares, "data": loader(), **TWA}
        return average(**{**arguments, "output": numbered, **given})

    return run


def toy() -> TensorDataset:
    data = ToyData(COUNT)
    return TensorDataset(data.x, data.y)


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(toy(), **{"batch_size": 8, **options})


def squares(model: nn.Module, batch: Any) -> Tensor:
    """[B]"""
    return (model(batch[0]) - batch[1]).square().mean(dim=1)


def mean_square(model: nn.Module, batch: Any) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def scores_of(outcome: Outcome) -> dict[str, dict[str, float]]:
    return {candidate.method: dict(candidate.select) for candidate in outcome.candidates}


def weights_of(outcome: Outcome) -> dict[str, Tensor]:
    return load_file(outcome.folder / "model.safetensors")


@pytest.fixture
def expected(run: Callable[..., Outcome]) -> dict[str, dict[str, float]]:
    return scores_of(run())


def test_functions_give_what_the_same_task_as_a_class_gives_bit_for_bit(
    run: Callable[..., Outcome], checkpoints: Path, tmp_path: Path
) -> None:
    as_class = average(checkpoints, tmp_path, output=tmp_path / "class", task=ToyTask(count=COUNT), **TWA)
    outcome = run()
    assert scores_of(outcome) == scores_of(as_class)
    assert (outcome.gain, outcome.gain_low, outcome.gain_high) == (as_class.gain, as_class.gain_low, as_class.gain_high)
    for name, tensor in weights_of(outcome).items():
        assert torch.equal(tensor, weights_of(as_class)[name]), name
    assert not outcome.warnings


def test_the_model_of_the_user_stays_as_it_is(run: Callable[..., Outcome]) -> None:
    model = plain_net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(model=model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


# Data


class Words(Dataset[dict[str, Any]]):
    """Examples with a text, and with something that no batch of tensors has."""

    def __init__(self) -> None:
        self.data = ToyData(COUNT)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict[str, Any]:
        x, y = self.data.x[index], self.data.y[index]
        return {"x": x, "y": y, "word": f"word {index}", "nothing": None}


def together(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "inputs": {"x": torch.stack([sample["x"] for sample in samples])},
        "targets": (torch.stack([sample["y"] for sample in samples]),),
        "words": [sample["word"] for sample in samples],
        "nothing": None,
    }


def loss_of_words(model: nn.Module, batch: Any) -> Tensor:
    assert batch["nothing"] is None
    assert len(batch["words"]) == len(batch["inputs"]["x"])
    assert all(isinstance(word, str) for word in batch["words"])
    return (model(batch["inputs"]["x"]) - batch["targets"][0]).square().mean(dim=1)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        data = ToyData(COUNT)
        return zip(data.x, data.y, strict=True)


class Asked(Dataset[Any]):
    """As a data set of Hugging Face's, which is asked for several examples at once."""

    def __init__(self) -> None:
        self.data = ToyData(COUNT)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("several are asked for at once")

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [(self.data.x[index], self.data.y[index]) for index in indices]


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "a shuffled loader that drops the last batch": lambda: {"data": loader(shuffle=True, drop_last=True)},
    "workers": lambda: {"data": loader(num_workers=2)},
    "a data set": lambda: {"data": toy(), "task_options": {"batch_size": 8}},
    "a data set that is asked for several": lambda: {"data": Asked(), "task_options": {"batch_size": 8}},
    "a list of batches": lambda: {"data": list(loader())},
    "a generator": lambda: {"data": (batch for batch in loader())},
    "a stream": lambda: {"data": DataLoader(Stream(), batch_size=8)},
    "a stream with a worker": lambda: {"data": DataLoader(Stream(), batch_size=8, num_workers=1)},
    "batches of uneven sizes": lambda: {"data": list(loader(batch_size=7)), "task_options": {"batch_size": 8}},
    "texts and nested parts": lambda: {
        "data": DataLoader(Words(), batch_size=8, collate_fn=together), "loss": loss_of_words,
    },
    "texts in a list of batches": lambda: {
        "data": list(DataLoader(Words(), batch_size=8, collate_fn=together)), "loss": loss_of_words,
    },
    "a distributed sampler": lambda: {"data": loader(sampler=DistributedSampler(toy(), num_replicas=2, rank=1))},
    "a function that builds the model": lambda: {"model": plain_net},
    "a class of the model": lambda: {"model": functools.partial(nn.Sequential, *plain_net().children())},
    "a wrapped model": lambda: {"model": nn.DataParallel(plain_net())},
    "a dictionary with the loss": lambda: {"loss": lambda model, batch: {"loss": squares(model, batch)}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_the_same_result(
    kind: str, run: Callable[..., Outcome], expected: dict[str, dict[str, float]]
) -> None:
    outcome = run(**KINDS[kind]())
    assert scores_of(outcome) == expected
    assert not outcome.warnings


Pair = namedtuple("Pair", ["x", "y"])


class Encoding(UserDict[str, Any]):
    """As transformers' BatchEncoding: a mapping that moves itself."""

    def to(self, device: Any) -> Encoding:
        return Encoding({name: tensor.to(device) for name, tensor in self.items()})


@pytest.mark.parametrize(
    ("make", "taken"),
    [
        (lambda x, y: Pair(x, y), lambda batch: (batch.x, batch.y)),
        (lambda x, y: Encoding(x=x, y=y), lambda batch: (batch.data["x"], batch.data["y"])),
        (lambda x, y: [x, [y]], lambda batch: (batch[0], batch[1][0])),
        (lambda x, y: (x.numpy(), y), lambda batch: (torch.from_numpy(batch[0]), batch[1])),
        (lambda x, y: {"x": x, "rows": y.tolist()}, lambda batch: (batch["x"], torch.tensor(batch["rows"]))),
    ],
)
def test_rows_are_taken_from_batches_of_any_structure(
    make: Callable[..., Any], taken: Callable[..., Any], run: Callable[..., Outcome],
    expected: dict[str, dict[str, float]],
) -> None:  # fmt: skip
    outcome = run(
        data=[make(x, y) for x, y in loader(batch_size=5)],
        task_options={"batch_size": 8},
        loss=lambda model, batch: squares(model, taken(batch)),
    )
    assert scores_of(outcome) == expected


def test_a_sampler_that_leaves_examples_out_is_followed(run: Callable[..., Outcome]) -> None:
    part = list(range(10, 50))
    left = run(data=loader(sampler=SubsetRandomSampler(part)))
    cut = run(data=torch.utils.data.Subset(toy(), part), task_options={"batch_size": 8})
    assert scores_of(left) == scores_of(cut)
    weights = torch.zeros(COUNT)
    weights[part] = 1.0
    weighed = WeightedRandomSampler(weights.tolist(), 2_000)
    assert scores_of(run(data=loader(sampler=weighed))) == scores_of(cut), "each of them once"


def test_data_that_were_read_once_are_not_read_again(run: Callable[..., Outcome]) -> None:
    class Counting(TensorDataset):
        reads = 0

        def __getitem__(self, index: Any) -> Any:
            Counting.reads += 1
            return super().__getitem__(index)

    data = Counting(*toy().tensors)
    run(data=DataLoader(data, batch_size=8))
    first = Counting.reads
    Counting.reads = 0
    run(data=DataLoader(data, batch_size=8), method_options={"steps": 60})
    assert first <= Counting.reads < first + 60


def test_train_set_may_be_data_as_well(run: Callable[..., Outcome], checkpoints: Path, tmp_path: Path) -> None:
    other = ToyData(48, seed=5)
    outcome = run(train_set=DataLoader(TensorDataset(other.x, other.y), batch_size=8))
    assert scores_of(outcome)["twa"] != scores_of(run())["twa"]
    settings = json.loads((outcome.folder / "report.json").read_text())["settings"]
    assert (settings["task"], settings["val_set"], settings["train_set"]) == ("function", "data=", "train_set=")


def test_statistics_of_batch_norm_are_made_of_whole_batches(run: Callable[..., Outcome], checkpoints: Path) -> None:
    norm = {"ckpt_dir": checkpoints.parent / "norm", "model": norm_net()}
    one, other = run(**norm), run(**norm, loss=mean_square)
    for name, tensor in weights_of(one).items():
        torch.testing.assert_close(weights_of(other)[name], tensor, rtol=1e-5, atol=1e-6)


# Losses and metrics


def test_a_mean_is_as_good_as_a_value_of_each_example_but_for_the_interval(run: Callable[..., Outcome]) -> None:
    mean, each = run(loss=mean_square), run()
    for method, scores in scores_of(each).items():
        assert scores_of(mean)[method] == pytest.approx(scores, rel=1e-6)
    assert mean.gain == pytest.approx(each.gain, rel=1e-5)
    width = each.gain_high - each.gain_low
    assert mean.gain_high - mean.gain_low == pytest.approx(width, rel=0.4)
    assert not mean.warnings


def test_a_mean_loss_is_compared_over_a_hundred_parts_of_large_data(
    run: Callable[..., Outcome], checkpoints: Path, tmp_path: Path
) -> None:
    data = ToyData(2_000)
    sizes: list[int] = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        if not torch.is_grad_enabled():
            sizes.append(len(batch[0]))
        return mean_square(model, batch)

    outcome = run(loss=loss, data=DataLoader(TensorDataset(data.x, data.y), batch_size=250), method="best",
                  method_options={})  # fmt: skip
    assert max(sizes) == 20
    assert outcome.gain == 0.0


def test_metrics_judge_and_their_directions_are_guessed_from_their_names(run: Callable[..., Outcome]) -> None:
    def metrics(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        off = (model(batch[0]) - batch[1]).abs()[:, 0]
        return {"close": off < 0.5, "abs_error": off, "minus-distance.x": -off}

    outcome = run(metrics=metrics)
    assert (outcome.metric, outcome.higher_is_better) == ("close", True)
    assert scores_of(outcome)["best"].keys() == {"close", "abs_error", "minus-distance.x", "loss"}
    assert run(metrics=metrics, metric="abs_error").higher_is_better is False
    declared = Metric(name="abs_error", higher_is_better=True)
    assert run(metrics=metrics, metric=declared).higher_is_better is True


def test_a_metric_may_be_a_function_of_statistics(run: Callable[..., Outcome]) -> None:
    def metrics(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        off = (model(batch[0]) - batch[1]).abs()[:, 0]
        return {"off": off, "size": batch[1].abs()[:, 0]}

    relative = Metric(name="relative", higher_is_better=False, of=ratio("off", "size"), statistics=("off", "size"))
    outcome = run(metrics=metrics, metric=relative)
    assert outcome.metric == "relative"
    assert scores_of(outcome)["best"].keys() == {"relative", "loss"}


def test_a_loss_among_the_metrics_stands_for_the_loss(run: Callable[..., Outcome], expected: Any) -> None:
    called = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        called.append(torch.is_grad_enabled())
        return mean_square(model, batch)

    outcome = run(loss=loss, metrics=lambda model, batch: {"loss": squares(model, batch)})
    for method, scores in scores_of(outcome).items():
        assert scores == pytest.approx(expected[method])
    assert called.count(False) < 10, "only when it is tried"


# Batches that cannot be cut


def ragged() -> list[dict[str, Tensor]]:
    """Padded to another length each, and of other sizes."""
    generator = torch.Generator().manual_seed(1)
    sizes = [3, 5, 2, 4, 6, 3, 4, 5, 2, 3, 4, 6]
    return [
        {"x": torch.randn(size, 2 + number % 3, 6, generator=generator), "y": torch.randn(size, 1, generator=generator)}
        for number, size in enumerate(sizes)
    ]


def ragged_losses(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch["x"].mean(dim=1)) - batch["y"]).square().mean(dim=1)


def test_batches_that_cannot_be_cut_are_examples_that_count_by_their_size(run: Callable[..., Outcome]) -> None:
    each = run(loss=ragged_losses, data=ragged())
    mean = run(loss=lambda model, batch: ragged_losses(model, batch).mean(), data=ragged())
    for method, scores in scores_of(each).items():
        assert scores_of(mean)[method] == pytest.approx(scores, rel=1e-6)
    model = plain_net()
    model.load_state_dict(weights_of(each))
    with torch.no_grad():
        sums = [(float(ragged_losses(model, batch).sum()), len(batch["y"])) for batch in ragged()]
    report = json.loads((each.folder / "report.json").read_text())
    winner = next(score for score in report["candidates"] if score["method"] == report["winner"])
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    select = [sums[index] for index in shuffled[:6]]
    assert winner["select"]["loss"] == pytest.approx(sum(s for s, _ in select) / sum(n for _, n in select), rel=1e-5)


def test_a_constant_beside_the_rows_makes_a_batch_an_example(run: Callable[..., Outcome]) -> None:
    batches = [(x, y, torch.ones(3)) for x, y in loader()]
    outcome = run(data=batches)
    assert outcome.metric == "loss"
    with pytest.raises(TaskError, match="`batch_size` must be absent for `data=`, whose batches cannot be cut"):
        run(data=batches, task_options={"batch_size": 4})
    with pytest.raises(TaskError, match="`train_set=` must have examples that can be told apart where `data=` has"):
        run(data=batches, train_set=loader())

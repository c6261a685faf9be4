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
from ladle_engine.tasks.identity import identity_of_function, identity_of_module
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


def test_several_sets_are_judged_by_name(run: Callable[..., Outcome], checkpoints: Path) -> None:
    hard = ToyData(40, seed=3)
    sets = {"easy": loader(), "hard": [(hard.x[rows], hard.y[rows]) for rows in torch.arange(40).split(8)]}
    outcome = run(data=sets, judge_by="mean", no_set_worse=True)
    report = json.loads((outcome.folder / "report.json").read_text())
    assert report["settings"]["val_set"] == {"easy": 'data["easy"]=', "hard": 'data["hard"]='}
    alone = scores_of(run(method="best", method_options={}))["best"]
    first = scores_of(run(data=sets, method="best", method_options={}))["best"]
    assert first == pytest.approx(alone), "the first one judges"
    with pytest.raises(DataError, match=re.escape('`data["b"]=` fails at example 0')):
        run(data={"a": loader(), "b": Broken()})
    norm = {"ckpt_dir": checkpoints.parent / "norm", "model": norm_net()}
    with pytest.raises(DataError, match="because the model has BatchNorm"):
        run(data=sets, judge_by="mean", **norm)
    run(data=sets, **norm)


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
    assert called.count(False) < 20, "only when it is tried"


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


# Mistakes


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": None}, "`model`, `loss`, `data` must be given together, but `model` is absent"),
        ({"loss": None, "metrics": squares}, "must be given together, but `loss` is absent"),
        ({"data": None}, "must be given together, but `data` is absent"),
        ({"val_set": "val.npz"}, "`val_set` must be absent where `data` is given, because `data` stands"),
        ({"task": ToyTask}, "`task` must be absent where `data` is given, because `model` and"),
        ({"model": {"weight": 1}}, "`model` must be a `torch.nn.Module` or a function that builds one, but is dict"),
        ({"model": nn.Linear}, "`model` must be a `torch.nn.Module` or a function that builds one, but takes (in_f"),
        ({"loss": 3}, "`loss` must be a function of the model and a batch, but is int 3"),
        ({"loss": nn.MSELoss()}, "but is `MSELoss`, which takes outputs and targets. Write `lambda model, batch:"),
        ({"loss": F.cross_entropy}, "but is `cross_entropy`, which takes outputs and targets"),
        ({"loss": torch.nn.functional.mse_loss}, "but is `mse_loss`, which takes outputs and targets"),
        ({"loss": lambda outputs: outputs}, "`loss` must be a function of the model and a batch, but takes (outputs)"),
        ({"loss": lambda model, x, y: x}, "`loss` must be a function of the model and a batch, but takes (mod"),
        ({"loss": lambda batch, model: batch}, "`loss` must take the model first and then the batch"),
        ({"metrics": ["accuracy"]}, "`metrics` must be a function of the model and a batch, but is list ['accuracy']"),
        ({"data": "val.npz"}, "a list of batches, but is of type str. Files are given as `val_set`"),
        ({"data": Path("val.npz")}, "a list of batches, but is of type PosixPath"),
        ({"data": (torch.ones(4, 6), torch.ones(4, 1))}, "is of type tuple. A single batch is `[batch]`, and"),
        ({"data": {"x": torch.ones(4, 6)}}, '`data["x"]` must be a DataLoader, a data set'),
        ({"data": {}}, "`data` must hold at least one set"),
        ({"data": {"": loader()}}, "`val_set`"),
        ({"data": torch.ones(4, 6)}, "but is of type Tensor. Arrays are `torch.utils.data.TensorDataset(x, y)`"),
        ({"data": Stream()}, "is of type Stream. It yields examples: `DataLoader(dataset, batch_size=32)` makes"),
        ({"data": np.ones(4)}, "but is of type ndarray. Files are"),
        ({"train_set": "train.npz"}, "`train_set` must be a DataLoader, a data set"),
        ({"device": "tpu"}, "`device` must be one that torch can use here"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_go_together_are_refused_in_words(
    given: dict[str, Any], words: str, run: Callable[..., Outcome]
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        run(**given)


def test_neither_a_path_nor_data_is_refused_and_so_is_a_metric_of_ones_own_with_a_path(
    checkpoints: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="`val_set` must be a path, or `data` with `model` and `loss`"):
        average(checkpoints, output=tmp_path / "out")
    with pytest.raises(ValueError, match="`metric` must be a name where no `model`, `loss` and `data` are given"):
        average(checkpoints, tmp_path, output=tmp_path / "out", metric=Metric(name="a", higher_is_better=True))


class Breaks(nn.Module):
    """A model that is its own lock."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = plain_net()
        self.file = open(__file__)  # noqa: SIM115, PTH123


OTHER = plain_net()


def noisy(model: nn.Module, batch: Any) -> Tensor:
    return squares(model, batch) * (1 + torch.rand(()))


def drops_the_mode(model: nn.Module, batch: Any) -> Tensor:
    model.train()
    return squares(model, batch)


def moves_the_weights(model: nn.Module, batch: Any) -> Tensor:
    model.state_dict()["0.bias"].add_(1.0)
    return squares(model, batch)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loss": lambda model, batch: model(batch)}, "`loss=` fails ("),
        ({"loss": lambda model, batch: model(batch)}, "It is called with the model and a batch, here [float32 [8, 6]"),
        ({"loss": lambda model, batch: squares(model, batch).sum()}, "returns their sum"),
        ({"loss": lambda model, batch: mean_square(model, batch).item()}, "must return a tensor: the loss of each ex"),
        ({"loss": lambda model, batch: (model(batch[0]) - batch[1]).square()}, "the mean over all dimensions but"),
        ({"loss": lambda model, batch: squares(model, batch)[:3]}, "the loss of each example, [8] here, or their mean"),
        ({"loss": lambda model, batch: squares(model, batch).detach()}, "`detach`, `item`, `no_grad` and `argmax`"),
        ({"loss": lambda model, batch: squares(OTHER, batch)}, "Does it take another model?"),
        ({"loss": lambda model, batch: None}, "`loss=` must return a tensor"),
        ({"loss": drops_the_mode}, "`loss=` must leave the model in the mode that it is in, but puts it in train"),
        ({"loss": moves_the_weights}, "`loss=` must leave the model as it is, but changes `0.bias`"),
        ({"model": lambda: None}, "`model=` must build a `torch.nn.Module`, but builds None"),
        ({"model": lambda: 1 / 0}, "`model=` fails ("),
        ({"model": Breaks()}, "`model=` must be a module that can be copied, so that yours stays as it is"),
        ({"metrics": lambda model, batch: squares(model, batch)}, "`metrics=` must return a mapping from names to te"),
        ({"metrics": lambda model, batch: {"Top 1": batch[1]}}, "`metrics=` must return names of lower-case letters"),
        ({"metrics": lambda model, batch: {"a": batch[1].mean()}}, "one value per example for `a`, but returns floa"),
        ({"metrics": lambda model, batch: {"a": batch[1][:3, 0]}}, "one value per example for `a`, [8] here, but "),
        ({"metric": Metric(name="a", higher_is_better=True)}, "`metrics=` must return `a`, which `metric=` is"),
        ({"metric": "accuracy"}, "`metric=` must be one of loss for `function`, but is `accuracy`"),
        ({"task_options": {"batch": 3}}, "`batch` must be an option of task `function`"),
        ({"model": nn.Linear(6, 1)}, "The task's model"),
    ],
)  # fmt: skip
def test_functions_that_break_a_rule_are_told_so_by_name(
    given: dict[str, Any], words: str, run: Callable[..., Outcome]
) -> None:
    with pytest.raises(TaskError, match=re.escape(words)):
        run(**given)


def test_an_error_names_the_users_own_line(run: Callable[..., Outcome]) -> None:
    with pytest.raises(TaskError) as caught:
        run(loss=lambda model, batch: model(batch[0]) - batch["y"])
    assert re.search(rf"\({re.escape(__file__)}, line \d+\): TypeError", caught.value.message)
    assert "check_task" not in caught.value.message


class Broken(Dataset[Any]):
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        raise OSError(f"no such picture: {index}.png")


class Augmented(TensorDataset):
    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(6), y


def endless() -> Iterator[Any]:
    while True:
        yield torch.zeros(1 << 20)


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (Broken(), "invalid-data", "`data=` fails at example 0"),
        (DataLoader(Broken(), batch_size=8, num_workers=1), "invalid-data", "no such picture: 0.png"),
        (DataLoader(Words(), collate_fn=lambda samples: samples[0]["z"]), "invalid-data", "KeyError: 'z'"),
        (DataLoader(Words()), "invalid-data", "NoneType"),
        (DataLoader(Augmented(*toy().tensors)), "invalid-data", "but `batch[0]` of example 0 is another one"),
        ([], "empty-data", "`data=` must hold examples, but is empty"),
        (TensorDataset(torch.ones(0, 6)), "empty-data", "`data=` must hold examples, but is empty"),
        (TensorDataset(torch.ones(3, 6), torch.ones(3, 1)), "too-little-data", "Give more examples than `data=` holds"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used_are_refused_by_name(
    data: Any, code: str, words: str, run: Callable[..., Outcome]
) -> None:
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        run(data=data)
    assert caught.value.code == code


def test_batches_without_an_index_may_take_half_of_the_free_memory(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle_engine.tasks.given.batches.free_host_bytes", lambda: 20_000_000)
    with pytest.raises(DataError, match="must fit in half of the free memory, 10,000,000 bytes") as caught:
        run(data=endless())
    assert caught.value.code == "out-of-memory"
    run(data=list(loader()))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (noisy, "gives another value for the same batch and weights the second time"),
        (lambda model, batch: squares(model, batch) - squares(model, batch).mean() / 2, "when others are in its batch"),
        (
            lambda model, batch: (squares(model, batch) * batch[0][:, 0].abs()).sum() / batch[0][:, 0].abs().sum(),
            "`loss=` is no mean over examples",
        ),
    ],
)  # fmt: skip
def test_a_loss_that_is_no_plain_mean_is_a_warning(
    loss: Callable[..., Any], words: str, run: Callable[..., Outcome]
) -> None:
    (warning,) = run(loss=loss, method="uniform", method_options={}).warnings
    assert words in warning


def test_augmentation_is_allowed_where_it_only_trains(run: Callable[..., Outcome]) -> None:
    other = ToyData(48, seed=5)
    (warning,) = run(train_set=DataLoader(Augmented(other.x, other.y), batch_size=8)).warnings
    assert "`train_set=` gives `batch[0]` of example 0 otherwise the second time" in warning


def test_what_is_wrong_is_told_before_any_weight_is_read(checkpoints: Path, tmp_path: Path) -> None:
    good: dict[str, Any] = {"model": plain_net(), "loss": squares, "data": loader()}
    precheck(checkpoints, output=tmp_path / "out", **good)
    with pytest.raises(EngineError, match="returns their sum"):
        precheck(checkpoints, output=tmp_path / "out", **{**good, "loss": lambda m, b: squares(m, b).sum()})


# Going on


def digest_of_settings(run: Callable[..., Outcome], folder: Path, **given: Any) -> set[str]:
    run(state_dir=folder, **given)
    return {path.name for path in folder.iterdir()}


def test_a_repeated_call_goes_on_and_another_function_or_other_data_begin_anew(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    state = tmp_path / "state"

    def scaled(factor: float) -> Callable[..., Tensor]:
        return lambda model, batch: factor * squares(model, batch)

    first = digest_of_settings(run, state, loss=scaled(1.0))
    assert digest_of_settings(run, state, loss=scaled(1.0)) == first
    assert digest_of_settings(run, state, loss=scaled(1.0), data=list(loader())) == first, "the same examples"
    other = ToyData(COUNT, seed=3)
    counts = [
        len(digest_of_settings(run, state, **given))
        for given in (
            {"loss": scaled(2.0)},
            {"data": TensorDataset(other.x, other.y), "loss": scaled(1.0), "task_options": {"batch_size": 8}},
            {"loss": scaled(1.0), "metrics": lambda model, batch: {"loss": squares(model, batch)}},
            {"loss": scaled(1.0), "model": nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))},
            {"loss": scaled(1.0), "task_options": {"batch_size": 4}},
        )
    ]
    assert counts == [2, 3, 4, 5, 6]


NOTEBOOK = """
scale = 1.0

def squared(x):
    return scale * x.square()

class Difference:
    def __call__(self, model, batch):
        return (model(batch[0]) - batch[1]).square().mean(dim=1)

loss = lambda model, batch: (lambda off: squared(off).mean(dim=1))(model(batch[0]) - batch[1])
other = Difference()
"""


def in_notebook(source: str, name: str = "loss") -> Any:
    """What a cell defines, whose code is in no file."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(source, names)
    return identity_of_function(names[name])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("scale = 1.0", "scale = 2.0"),
        ("scale * x.square()", "scale * x.abs()"),
        (".mean(dim=1))(", ".sum(dim=1))("),
        ("lambda off: squared", "lambda off: 2 * squared"),
    ],
)
def test_whatever_a_notebooks_function_uses_tells_it_from_another(before: str, after: str) -> None:
    assert before in NOTEBOOK
    assert in_notebook(NOTEBOOK) == in_notebook("\n\n" + NOTEBOOK + "\nunused = 3\n")
    assert in_notebook(NOTEBOOK) != in_notebook(NOTEBOOK.replace(before, after))


def test_an_object_that_is_called_and_arguments_that_are_fixed_count_too() -> None:
    changed = NOTEBOOK.replace(".square().mean(dim=1)\n\nloss", ".abs().mean(dim=1)\n\nloss")
    assert in_notebook(NOTEBOOK, "other") == in_notebook(NOTEBOOK, "other") != in_notebook(changed, "other")
    halved = [identity_of_function(functools.partial(noisy, batch=number)) for number in (1, 1, 2)]
    assert halved[0] == halved[1] != halved[2]


def test_a_network_is_told_from_others_by_its_parts_and_settings_not_by_its_weights() -> None:
    same = [identity_of_module(model) for model in (plain_net(), plain_net().eval(), OTHER)]
    assert len(set(same)) == 1
    others = [nn.Sequential(*plain_net(), nn.ReLU()), nn.Sequential(*plain_net(), nn.Dropout(0.1)), norm_net()]
    others.append(nn.Sequential(*plain_net(), nn.Dropout(0.2)))
    assert len({same[0], *map(identity_of_module, others)}) == 5

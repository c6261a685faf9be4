"""`check_task`, the contract test for authors of tasks: it passes good ones, and finds every fault of bad ones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ladle_small_cnn import SmallCnnTask
from safetensors.torch import save_file
from torch import Tensor, nn

from ladle_engine.errors import CheckpointError
from ladle_engine.tasks import Metric
from ladle_engine.tasks.image_classification import ImageClassification
from ladle_engine.testing import check_task
from tests.builders import make_checkpoints, make_val_set
from tests.unit.engine.toy import ToyData, ToyTask, norm_net, plain_net, write_checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("toys")
    write_checkpoints(made, plain_net, count=2)
    return made


def test_the_toy_task_follows_the_rules(folder: Path) -> None:
    check_task(ToyTask, folder, folder)
    check_task(ToyTask(batch_size=2, count=2), folder, folder)


def test_a_model_with_batch_norm_follows_the_rules(tmp_path: Path) -> None:
    write_checkpoints(tmp_path, norm_net, count=2)
    check_task(ToyTask(norm_net), tmp_path, tmp_path)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_example_plug_in_follows_the_rules_as_class_instance_and_name(tmp_path: Path, batch_norm: bool) -> None:
    checkpoints = make_checkpoints(tmp_path / "checkpoints", count=2, batch_norm=batch_norm)
    val_set = make_val_set(tmp_path / "val.npz", count=20)
    for task in (SmallCnnTask, SmallCnnTask(), "small-cnn"):
        check_task(task, checkpoints, val_set)


def test_image_classification_follows_the_rules(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=16, patch_size=8,
        num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    for step in (1, 2):
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "val.npz", images=images, labels=np.arange(12) % 3)
    check_task(ImageClassification, tmp_path / "run", tmp_path / "val.npz", options={"batch_size": 4})


def toy(**changes: Any) -> type[ToyTask]:
    """The toy task, with other methods or attributes."""
    return type("Toy", (ToyTask,), {"__module__": __name__, **changes})


def scores(change: Any) -> type[ToyTask]:
    """With other values from `evaluate`."""
    return toy(evaluate=lambda self, model, batch: {"loss": change(ToyTask.evaluate(self, model, batch)["loss"])})


def loss(change: Any) -> type[ToyTask]:
    """With another value from `loss`."""
    return toy(loss=lambda self, model, batch: change(ToyTask.loss(self, model, batch)))


def data(batch: Any) -> type[ToyTask]:
    """With another data set's `batch`."""
    kind = type("Data", (ToyData,), {"batch": batch})
    return toy(open_data=lambda self, path, checkpoints: kind(self.count))


@dataclass
class WithoutBatchSize:
    pass


def other_size(self: ToyTask, checkpoints: object) -> nn.Module:
    return nn.Linear(3, 1)


def half_of_it(self: ToyData, indices: Tensor) -> Mapping[str, Tensor]:
    return {"x": self.x[indices], "y": self.y[indices[::2]]}


def augmented(self: ToyData, indices: Tensor) -> Mapping[str, Tensor]:
    return {"x": self.x[indices] + torch.randn(len(indices), 6), "y": self.y[indices]}


def in_order_of_size(self: ToyData, indices: Tensor) -> Mapping[str, Tensor]:
    return {"x": self.x[indices.sort().values], "y": self.y[indices.sort().values]}


def moving(self: ToyTask, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        next(model.parameters()).mul_(1.001)
    return ToyTask.loss(self, model, batch)


def standing_still(self: ToyTask, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return torch.zeros((), requires_grad=True) + batch["x"].mean()


_calls = itertools.count()

BROKEN: dict[str, tuple[type[ToyTask], str]] = {
    "no metric": (toy(metrics=()), "`metrics` of task `toy` must be a tuple of at least one `Metric`"),
    "no loss": (
        toy(metrics=(Metric(name="mse", higher_is_better=False),)),
        "must have one named `loss`, but has only mse",
    ),
    "a loss to be raised": (
        toy(metrics=(Metric(name="loss", higher_is_better=True),)),
        "says that more of it is better",
    ),
    "a metric's name": (
        toy(metrics=(*ToyTask.metrics, Metric(name="F1", higher_is_better=True))),
        "lower-case letters",
    ),
    "a name": (toy(name="My Task"), "`name` of task `My Task` must be lower-case letters"),
    "no method": (toy(evaluate=None), "`evaluate` of task `toy` must be a method, but is None"),
    "options of no dataclass": (toy(options_type=dict), "`options_type` of task `toy` must be a dataclass"),
    "any option taken": (
        toy(from_options=classmethod(lambda cls, options: cls(batch_size=options.get("batch_size", 8)))),
        "for an option that does not exist",
    ),
    "batch_size ignored": (
        toy(from_options=classmethod(lambda cls, options: cls())),
        "must take the option `batch_size`",
    ),
    "from_options gives nothing": (
        toy(from_options=classmethod(lambda cls, options: None)),
        "must return an instance, but returns None",
    ),
    "everything recognised": (
        toy(recognises=classmethod(lambda cls, checkpoints: True)),
        "returns True for one with no `config.json`",
    ),
    "config taken for granted": (
        toy(recognises=classmethod(lambda cls, checkpoints: "toy" in checkpoints.config)),
        "fails in `recognises`",
    ),
    "a foreign family recognised": (
        toy(recognises=classmethod(lambda cls, checkpoints: "architectures" in (checkpoints.config or {}))),
        "OfAnotherTask",
    ),
    "no model": (
        toy(build_model=lambda self, checkpoints: None),
        "`build_model` of task `toy` must return a `torch.nn.Module`",
    ),
    "another model": (toy(build_model=other_size), "The task's model"),
    "a model that changes": (
        toy(build_model=lambda self, checkpoints: nn.Sequential(*[nn.Linear(2, 2) for _ in range(next(_calls))])),
        "return the same architecture each time",
    ),
    "no names": (toy(stored_names=lambda self, model, checkpoints: None), "must return a mapping from names to names"),
    "unknown names": (toy(stored_names=lambda self, model, checkpoints: {"head.w": "x"}), "but has `head.w`"),
    "names of numbers": (toy(stored_names=lambda self, model, checkpoints: {"0.weight": 0}), "from names to names"),
    "no data": (toy(open_data=lambda self, path, checkpoints: None), "must return a data set"),
    "one example": (toy(open_data=lambda self, path, checkpoints: ToyData(1)), "but is 1"),
    "arrays of numpy": (data(lambda self, indices: {"x": self.x[indices].numpy()}), "must return a tensor for `x`"),
    "no mapping": (data(lambda self, indices: (self.x[indices], self.y[indices])), "must return a mapping"),
    "first dimensions that differ": (
        data(half_of_it),
        "the example, 8 of them here, but returns float32 [4, 1] for `y`",
    ),
    "augmentation": (data(augmented), "without augmentation"),
    "another order": (data(in_order_of_size), "in the order of the indices"),
    "a loss for each example": (
        loss(lambda value: value.expand(8)),
        "a float32 scalar tensor, but returns float32 [8]",
    ),
    "a loss in float64": (loss(lambda value: value.double()), "but returns float64 []"),
    "a loss that is a number": (loss(lambda value: value.item()), "but returns float 0."),
    "no loss returned": (loss(lambda value: None), "but returns None"),
    "a detached loss": (loss(lambda value: value.detach()), "must be differentiable"),
    "a loss of something else": (toy(loss=standing_still), "none of them gets a gradient"),
    "a loss that is NaN": (
        loss(lambda value: value * float("nan")),
        "must be finite, but is nan on the first 8 examples",
    ),
    "a loss that changes": (loss(lambda value: value * (1 + torch.rand(()))), "must be the same for the same batch"),
    "a sum": (
        toy(loss=lambda self, model, batch: (model(batch["x"]) - batch["y"]).square().sum()),
        "must be the mean over the examples, not a sum",
    ),
    "a loss that moves the weights": (toy(loss=moving), "must leave the model as it is"),
    "a scalar": (scores(lambda values: values.mean()), "float32 [8] here, but returns float32 []"),
    "a column": (scores(lambda values: values[:, None]), "float32 [8] here, but returns float32 [8, 1]"),
    "too short": (scores(lambda values: values[1:]), "float32 [8] here, but returns float32 [7]"),
    "whole numbers": (scores(lambda values: values.long()), "float32 [8] here, but returns int64 [8]"),
    "values on another device": (scores(lambda values: values.to("meta")), "but returns some on meta"),
    "the batch's mean": (scores(lambda values: values.mean().expand(len(values))), "does not depend on the others"),
    "values out of range": (
        toy(metrics=(Metric(name="loss", higher_is_better=False, low=0.0, high=1e-6),)),
        "must return values from 0 to 1e-06 for `loss`",
    ),
    "NaN": (scores(lambda values: values * float("nan")), "must return finite values for `loss`"),
    "another metric": (
        toy(evaluate=lambda self, model, batch: {"mse": torch.zeros(8)}),
        "so `loss` too, but returns `mse`",
    ),
    "logits of one number": (
        toy(logits=lambda self, model, batch: model(batch["x"])[:, 0]),
        "`logits` of task `toy` must return one row of numbers per example, float32 [8, C] here, but returns float32",
    ),
    "one target": (
        toy(targets=lambda self, batch: batch["y"].mean()),
        "`targets` of task `toy` must return a tensor whose first dimension is the example, [8, ...] here",
    ),
    "another loss of logits": (
        toy(of_logits=lambda self, logits, targets: {"loss": 2 * (logits - targets).square().mean(dim=1)}),
        "`of_logits` of task `toy` must give the same mean loss as `loss`, but gives",
    ),
    "logits made float32": (
        toy(of_logits=lambda self, logits, targets: {"loss": (logits - targets).square().mean(dim=1).float()}),
        "one `loss` per example in the type of the logits, float64 [8] here, but returns float32 [8]",
    ),
    "an error": (toy(loss=lambda self, model, batch: batch["labels"]), "KeyError: 'labels'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_found_and_named(folder: Path, case: str) -> None:
    task, words = BROKEN[case]
    with pytest.raises(AssertionError) as caught:
        check_task(task, folder, folder)
    text = str(caught.value)
    assert words in text, text
    assert text.startswith(f"Task `{task.name}` breaks"), text


def test_all_faults_are_told_at_once(folder: Path) -> None:
    task = toy(
        recognises=classmethod(lambda cls, checkpoints: True),
        loss=lambda self, model, batch: None,
        evaluate=lambda self, model, batch: None,
    )
    with pytest.raises(AssertionError) as caught:
        check_task(task, folder, folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == "Task `toy` breaks 3 rules:"
    assert [next(part for part in ("recognises", "loss", "evaluate") if f"`{part}` of" in line)
            for line in lines[1:]] == ["recognises", "loss", "evaluate"]  # fmt: skip


def test_a_folder_without_checkpoints_is_the_testers_fault_and_not_the_tasks(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        check_task(ToyTask, tmp_path, tmp_path)


def test_a_message_names_the_file_and_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "fault_of_a_plug_in.py").write_text(
        "from tests.unit.engine.toy import ToyTask\n\n\nclass Fault(ToyTask):\n"
        "    def loss(self, model, batch):\n        return model(batch['x']) / missing\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        from fault_of_a_plug_in import Fault  # type: ignore[import-not-found]

    with pytest.raises(AssertionError) as caught:
        check_task(Fault, folder, folder)
    assert f"({tmp_path / 'fault_of_a_plug_in.py'}, line 6): NameError: name 'missing' is not defined" in str(
        caught.value
    )


def test_checkpoints_of_another_model_are_told_of_by_name(tmp_path: Path) -> None:
    for number in (1, 2):
        save_file({"other": torch.full((2,), float(number))}, tmp_path / f"step-{number}.safetensors")
    with pytest.raises(AssertionError, match=r"has the tensor `0\.weight`"):
        check_task(ToyTask, tmp_path, tmp_path)

"""Training data without labels: coefficients are trained to make predictions certain, and labelled data judge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ladle_small_cnn import SmallCnn, SmallCnnTask
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from ladle_engine import DataError, Outcome, TaskError, average, candidate_state
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.pipeline.request import Request
from ladle_engine.tasks.base import Batch, DataSet
from ladle_engine.tasks.metrics import mean_entropy
from ladle_engine.testing import check_task
from tests.builders import CONFIG, digits, make_checkpoints
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints

WIDTH = 16
AUTO: dict[str, Any] = {
    "methods": ["uniform", "twa"],
    "options": {"twa": {"steps": 60, "rescale": False}},
}
ENTROPY: dict[str, Any] = {"task": SmallCnnTask, "train_set_use": "entropy"}


def shifted(part: slice) -> tuple[Tensor, Tensor]:
    """Digits of less contrast on a grey ground, with noise: other than those that the checkpoints were trained on."""
    images, labels = digits()
    generator = torch.Generator().manual_seed(part.start)
    noisy = 0.25 + 0.5 * images[part] + 0.15 * torch.randn(images[part].shape, generator=generator)
    return noisy, labels[part]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, a small labelled set of shifted digits, and more of them without labels."""
    root = tmp_path_factory.mktemp("entropy")
    make_checkpoints(root / "run", count=6, width=WIDTH)
    images, labels = shifted(slice(700, 1000))
    np.savez(root / "val.npz", images=images.numpy(), labels=labels.numpy())
    images, labels = shifted(slice(1000, 1797))
    np.savez(root / "unlabelled.npz", images=images.numpy())
    np.savez(root / "labelled.npz", images=images.numpy(), labels=(labels + 1).numpy() % 10)
    save_file({"images": images.contiguous()}, root / "unlabelled.safetensors")
    return root


def train(root: Path, name: str, output: Path, **more: Any) -> Outcome:
    asked = {"method": "twa", "method_options": {"steps": 40, "rescale": False}, **ENTROPY, **more}
    return average(root / "run", root / "val.npz", output=output, train_set=root / name, **asked)


def entropy_of(state: Mapping[str, Tensor], images: Tensor) -> float:
    model = SmallCnn(**CONFIG, width=WIDTH, batch_norm=False)
    model.load_state_dict(dict(state))
    with torch.no_grad():
        return float(mean_entropy(model(images)))


def test_entropy_is_that_of_the_distribution() -> None:
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mean_entropy(logits), torch.distributions.Categorical(logits=logits).entropy().mean())
    assert float(mean_entropy(torch.tensor([[1e9, 0.0, -1e9]]))) == 0.0
    assert mean_entropy(logits.to(torch.bfloat16)).dtype is torch.float32


def test_predictions_become_certain_and_the_labelled_set_decides(root: Path, tmp_path: Path) -> None:
    outcome = train(root, "unlabelled.npz", tmp_path / "out", method="auto", method_options=AUTO)
    images, _ = shifted(slice(1000, 1797))
    entropies = {
        method: entropy_of(candidate_state(outcome.folder, root / "run", method), images)
        for method in ("best", "uniform", "twa")
    }
    assert entropies["twa"] < entropies["uniform"], "training began at the mean"
    scores = {score.method: score.select["accuracy"] for score in outcome.candidates}
    assert scores["twa"] > scores["uniform"], "certain and right"
    assert outcome.gain >= 0
    assert scores[outcome.method] >= scores["best"]


@pytest.mark.parametrize("name", ["labelled.npz", "unlabelled.safetensors"])
def test_labels_that_are_there_are_not_used(root: Path, tmp_path: Path, name: str) -> None:
    plain = train(root, "unlabelled.npz", tmp_path / "plain")
    assert train(root, name, tmp_path / "other").candidates == plain.candidates


def test_a_folder_or_a_table_of_images_needs_no_labels_and_class_folders_mean_nothing(
    root: Path, tmp_path: Path
) -> None:
    images, _ = shifted(slice(1000, 1040))
    flat, deep = tmp_path / "flat", tmp_path / "deep"
    for number, image in enumerate((images[:, 0].clamp(0, 1) * 255).to(torch.uint8).numpy()):
        for file in (flat / f"{number:02}.png", deep / ("a" if number < 20 else "no class") / f"{number:02}.png"):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    (flat / "notes.txt").write_text("x")
    table = tmp_path / "images.jsonl"
    table.write_text("".join(json.dumps({"image": f"flat/{number:02}.png"}) + "\n" for number in range(40)))
    outcomes = [train(root, str(path), tmp_path / f"out-{path.name}") for path in (flat, deep, table)]
    assert outcomes[0].candidates == outcomes[1].candidates == outcomes[2].candidates
    assert any("notes.txt" in warning for warning in outcomes[0].warnings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"must hold \.png, \.jpg, .* files, but") as caught:
        train(root, str(tmp_path / "empty"), tmp_path / "out")
    assert caught.value.code == "empty-data"


def test_a_model_with_batch_norm_takes_its_statistics_from_the_labelled_data(root: Path, tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "norm", batch_norm=True)
    outcome = average(
        tmp_path / "norm", root / "val.npz", output=tmp_path / "out", train_set=root / "unlabelled.npz",
        method="twa", method_options={"steps": 5}, **ENTROPY,
    )  # fmt: skip
    assert outcome.gain >= 0


def test_a_task_without_entropy_is_refused_in_words(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "run", plain_net, count=3)
    for name in ("val", "train"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="with task `toy`, which cannot be trained without labels, but is `entropy`"):
        average(
            tmp_path / "run", tmp_path / "val", output=tmp_path / "out", task=ToyTask(plain_net),
            train_set=tmp_path / "train", train_set_use="entropy",
        )  # fmt: skip


def test_entropy_needs_a_training_set() -> None:
    with pytest.raises(ValueError, match="`train_set_use` must be one of coefficients, batchnorm, entropy"):
        Request(ckpt_dir="c", val_set="v", output="o", train_set_use="labels")


def test_no_training_set_for_entropy_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`train_set=` must be given with `train_set_use: entropy`, but is absent"):
        average(root / "run", root / "val.npz", output=tmp_path / "out", **ENTROPY)


class Wrong(SmallCnnTask):
    def entropy(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.logits(model, batch).mean(dim=1)


class Summed(SmallCnnTask):
    def entropy(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().entropy(model, batch) * len(batch["pixel_values"])


class WantsLabels(SmallCnnTask):
    def open_unlabelled(self, path: Path, checkpoints: CheckpointSet) -> DataSet:
        return None  # type: ignore[return-value]


def test_a_task_of_ones_own_that_breaks_the_rules_of_entropy_is_named_with_the_part(root: Path, tmp_path: Path) -> None:
    for task, words in (
        (Wrong, "`entropy` of task `small-cnn` must return the mean entropy"),
        (WantsLabels, "`open_unl"),
    ):
        with pytest.raises(TaskError, match=words) as caught:
            train(root, "unlabelled.npz", tmp_path / "out", task=task)
        assert caught.value.code == "task-failed"


def test_the_check_for_authors_looks_at_entropy_too(root: Path) -> None:
    check_task(SmallCnnTask, root / "run", root / "val.npz")
    with pytest.raises(
        AssertionError, match="`entropy` of task `small-cnn` must be the mean over the examples, not a sum"
    ):
        check_task(Summed, root / "run", root / "val.npz")
    with pytest.raises(AssertionError, match="`open_unlabelled` of task `small-cnn` must return a data set"):
        check_task(WantsLabels, root / "run", root / "val.npz")

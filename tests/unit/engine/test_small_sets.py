"""Validation sets smaller than a batch: every method runs on them, and only a side of fewer than two is too little."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ladle_engine import DataError, Outcome, average
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.progress import MemoryPlanned
from ladle_engine.tasks.examples import even_batches
from ladle_engine.tasks.images.data_sets import DecodedImages
from tests.builders import WITHOUT_BASE, digits, make_checkpoints, make_val_set, quick_options
from tests.unit.engine.toy import ToyData, ToyTask, norm_net, write_checkpoints

ALL = {"methods": [method for method in WITHOUT_BASE if method != "second-best"], "options": quick_options(3, steps=4)}


FREE_BYTES = 64 << 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_checkpoints(root / "plain", count=3)
    make_checkpoints(root / "norm", count=3, batch_norm=True)
    return root


def methods_of(outcome: Outcome) -> set[str]:
    return {score.method for score in outcome.candidates}


@pytest.mark.slow
@pytest.mark.parametrize("run", ["plain", "norm"])
@pytest.mark.parametrize("count", [4, 5, 10, 100])
def test_every_method_runs_on_fewer_examples_than_a_batch(runs: Path, tmp_path: Path, count: int, run: str) -> None:
    val = make_val_set(tmp_path / "val.npz", count=count)
    outcome = average(runs / run, val, output=tmp_path / "out", method_options=ALL)
    assert methods_of(outcome) == set(ALL["methods"]), "none has failed"
    assert all(np.isfinite(score.select["loss"]) for score in outcome.candidates)


def image_files(folder: Path, count: int) -> Path:
    images, labels = digits()
    for number in range(count):
        home = folder / str(int(labels[number]))
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray((images[number, 0] * 255).to(torch.uint8).numpy()).save(home / f"{number}.png")
    return folder


def test_a_hundred_image_files_are_enough_for_the_defaults(runs: Path, tmp_path: Path) -> None:
    outcome = average(runs / "plain", image_files(tmp_path / "val", 100), output=tmp_path / "out")
    assert len(outcome.candidates) > 3


def test_what_is_passed_over_in_a_set_is_among_the_warnings(runs: Path, tmp_path: Path) -> None:
    val = image_files(tmp_path / "val", 20)
    (val / "1" / "labels.csv").write_text("x")
    outcome = average(runs / "plain", val, output=tmp_path / "out", method="uniform")
    assert any("1/labels.csv" in warning for warning in outcome.warnings)


def test_images_are_kept_in_half_of_what_the_memory_plan_leaves(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan takes its part first."""
    monkeypatch.setattr("ladle_engine.placements.memory_plan.available_bytes", lambda device: FREE_BYTES)
    rooms: list[int] = []
    monkeypatch.setattr(DecodedImages, "keep", lambda data, max_bytes: rooms.append(max_bytes))
    plans: list[MemoryPlanned] = []
    average(
        runs / "plain", image_files(tmp_path / "val", 40), output=tmp_path / "out", method="uniform",
        train_set=image_files(tmp_path / "train", 1200),
        progress=lambda event: plans.append(event) if isinstance(event, MemoryPlanned) else None,
    )  # fmt: skip
    left = 0.8 * FREE_BYTES - sum(plans[0].parts.values())
    assert 0 < left < FREE_BYTES
    assert rooms == [int(left / 2) // 2] * 2, "two sets share it"


def test_a_set_of_one_class_is_fine(runs: Path, tmp_path: Path) -> None:
    images, labels = digits()
    ones = labels == 1
    np.savez(tmp_path / "val.npz", images=images[ones].numpy(), labels=labels[ones].numpy())
    assert average(runs / "plain", tmp_path / "val.npz", output=tmp_path / "out", method_options=ALL).gain >= 0


@pytest.mark.parametrize(
    ("count", "fraction", "words"),
    [
        (3, 0.5, "0.5 of 3 examples is 2 to select and 1 to fit. Give more examples than `"),
        (1, 0.5, "0.5 of 1 examples is 0 to select and 1 to fit. Give more examples than `"),
        (10, 0.1, "0.1 of 10 examples is 1 to select and 9 to fit."),
        (10, 0.9, "0.9 of 10 examples is 9 to select and 1 to fit."),
    ],
)
def test_fewer_than_two_examples_on_a_side_are_too_few(
    runs: Path, tmp_path: Path, count: int, fraction: float, words: str
) -> None:
    val = make_val_set(tmp_path / "val.npz", count=count)
    with pytest.raises(DataError) as caught:
        average(runs / "plain", val, output=tmp_path / "out", select_fraction=fraction)
    assert caught.value.code == "too-little-data"
    assert words in str(caught.value)


class TwoSets(ToyTask):
    """As many examples as the set's name says."""

    def open_data(self, path: Path, checkpoints: CheckpointSet) -> ToyData:
        return ToyData(int(path.name))


@pytest.mark.parametrize(("fit", "train", "batch_size"), [(2, 513, 128), (3, 513, 2), (3, 513, 3), (2, 512, 1024)])
def test_batch_statistics_are_never_of_one_example(tmp_path: Path, fit: int, train: int, batch_size: int) -> None:
    """BatchNorm refuses a batch without a variance, and the statistics of a few examples train the coefficients."""
    write_checkpoints(tmp_path / "run", norm_net, count=3)
    for count in (2 * fit, train):
        (tmp_path / str(count)).mkdir()
    trained: Mapping[str, Mapping[str, object]] = {
        "twa": {"steps": 3}, "pca": {"passes": 2, "optimiser": "lbfgs"}, "psgd": {"steps": 3}, "uniform": {},
    }  # fmt: skip
    outcome = average(
        tmp_path / "run",
        tmp_path / str(2 * fit),
        output=tmp_path / "out",
        task=TwoSets(norm_net, batch_size=batch_size),
        train_set=tmp_path / str(train),
        train_set_use="batchnorm",
        method_options={"methods": list(trained), "options": trained},
    )
    assert methods_of(outcome) == {"best", *trained}


@pytest.mark.parametrize(
    ("total", "batch_size", "sizes"),
    [
        (5, 128, [5]), (128, 128, [128]), (129, 128, [65, 64]), (300, 128, [100, 100, 100]),
        (3, 2, [3]), (5, 2, [3, 2]), (4, 2, [2, 2]), (3, 1, [1, 1, 1]), (1, 2, [1]), (7, 3, [3, 2, 2]),
    ],
)  # fmt: skip
def test_batches_are_even_and_of_at_least_two(total: int, batch_size: int, sizes: list[int]) -> None:
    batches = even_batches(torch.arange(total), batch_size)
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), torch.arange(total))

"""The same weights under two names count once, everywhere, and it is said."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

from ladle_engine import CheckpointError, combine_checkpoints, discover
from ladle_engine.checkpoints import duplicates


def state(value: float) -> dict[str, Tensor]:
    return {"a.weight": torch.full((3, 2), value), "b": torch.arange(4.0) * value, "count": torch.tensor(int(value))}


def epochs(folder: Path, *numbers: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        save_file(state(float(number)), folder / f"epoch-{number}.safetensors")
    return folder


def saved_anew(source: Path, target: Path) -> None:
    """The same tensors in a file with other bytes."""
    torch.save({"model": {f"module.{name}": tensor for name, tensor in load_file(source).items()}}, target)


SAME: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "link": ("last.safetensors", lambda source, target: target.symlink_to(source.name)),
    "hard link": ("last.safetensors", lambda source, target: os.link(source, target)),
    "copy": ("last.safetensors", shutil.copyfile),
    "another container": ("last.pt", saved_anew),
}


@pytest.mark.parametrize(("name", "make"), SAME.values(), ids=SAME)
def test_the_same_weights_count_once_and_the_name_with_a_step_stays(
    tmp_path: Path, name: str, make: Callable[[Path, Path], object]
) -> None:
    folder = epochs(tmp_path / "in", 1, 2)
    make(folder / "epoch-2.safetensors", folder / name)
    found = discover(folder)
    assert found.names == ("epoch-1.safetensors", "epoch-2.safetensors")
    (warning,) = found.warnings
    assert warning == (
        f"`epoch-2.safetensors` and `{name}` hold the same weights: they count once, as `epoch-2.safetensors`."
    )
    output = combine_checkpoints(folder, output=tmp_path / "out")
    assert load_file(output / "model.safetensors")["a.weight"][0, 0].item() == 1.5


def test_the_last_three_are_three_distinct_ones(tmp_path: Path) -> None:
    folder = epochs(tmp_path, 0, 1, 2, 3)
    shutil.copyfile(folder / "epoch-3.safetensors", folder / "last.safetensors")
    (folder / "best.safetensors").symlink_to("epoch-1.safetensors")
    assert discover(folder, last=3).names == tuple(f"epoch-{number}.safetensors" for number in (1, 2, 3))


def test_open_clips_latest_epoch_counts_once(tmp_path: Path) -> None:
    for name, value in (("epoch_1", 1.0), ("epoch_2", 2.0), ("epoch_latest", 2.0)):
        torch.save({"epoch": 1, "name": name, "state_dict": state(value)}, tmp_path / f"{name}.pt")
    assert discover(tmp_path).names == ("epoch_1.pt", "epoch_2.pt")


@pytest.mark.parametrize("max_shard_size", ["5GB", "10KB"])
def test_the_model_at_the_top_of_a_trainers_folder_counts_as_its_last_checkpoint(
    tmp_path: Path, max_shard_size: str
) -> None:
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32)
    for step in (10, 20):
        torch.manual_seed(step)
        model = ViTForImageClassification(config)
        model.save_pretrained(tmp_path / f"checkpoint-{step}", max_shard_size="5GB")
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (max_shard_size == "10KB")
    found = discover(tmp_path)
    assert found.names == ("checkpoint-10", "checkpoint-20")
    assert "they count once, as `checkpoint-20`" in found.warnings[0]


def test_a_sharded_model_at_the_top_is_one_checkpoint_beside_sharded_ones(tmp_path: Path) -> None:
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32)
    for step in (10, 20):
        torch.manual_seed(step)
        model = ViTForImageClassification(config)
        model.save_pretrained(tmp_path / f"checkpoint-{step}", max_shard_size="10KB")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    found = discover(tmp_path)
    assert found.names == ("checkpoint-10", "checkpoint-20")
    told = ("`checkpoint-20` and `model.safetensors.index.json` hold the same weights: they count once",)
    assert tuple(warning.partition(", as")[0] for warning in found.warnings) == told
    torch.manual_seed(30)
    ViTForImageClassification(config).save_pretrained(tmp_path, max_shard_size="20KB")
    assert discover(tmp_path).names == ("checkpoint-10", "checkpoint-20", "model.safetensors.index.json")


def test_of_copies_without_a_step_the_last_stays_in_its_place(tmp_path: Path) -> None:
    folder = epochs(tmp_path, 1, 2)
    save_file(state(3.0), folder / "last.safetensors")
    shutil.copyfile(folder / "last.safetensors", folder / "best.safetensors")
    assert discover(folder).names[-1] == "last.safetensors"
    assert len(discover(folder).names) == 3


def test_a_difference_in_one_element_is_no_copy(tmp_path: Path) -> None:
    """Though the names, the shapes and the few elements that are compared first are the same."""
    weights = torch.zeros(100_000)
    for number, place in ((1, 7), (2, 11), (3, 11)):
        changed = weights.clone()
        changed[place] = 1.0
        save_file({"w": changed}, tmp_path / f"epoch-{number}.safetensors")
    assert discover(tmp_path).names == ("epoch-1.safetensors", "epoch-2.safetensors")


def test_only_what_may_be_a_copy_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, str]] = []
    compare = duplicates._equal
    monkeypatch.setattr(
        duplicates, "_equal", lambda one, other: read.append((one.name, other.name)) or compare(one, other)
    )
    folder = epochs(tmp_path, *range(6))
    (folder / "link.safetensors").symlink_to("epoch-1.safetensors")
    shutil.copyfile(folder / "epoch-4.safetensors", folder / "last.safetensors")
    assert len(discover(folder).names) == 6
    assert read == [("epoch-4.safetensors", "last.safetensors")]


def test_steps_asked_for_are_there_though_another_holds_the_same(tmp_path: Path) -> None:
    folder = epochs(tmp_path, 1, 2)
    shutil.copyfile(folder / "epoch-2.safetensors", folder / "epoch-3.safetensors")
    assert discover(folder, steps=[1, 3]).names == ("epoch-1.safetensors", "epoch-3.safetensors")


def test_when_all_are_the_same_there_is_nothing_to_combine(tmp_path: Path) -> None:
    folder = epochs(tmp_path / "in", 1)
    shutil.copyfile(folder / "epoch-1.safetensors", folder / "last.safetensors")
    with pytest.raises(CheckpointError, match="must differ, but all hold the same weights") as caught:
        combine_checkpoints(folder, output=tmp_path / "out")
    assert caught.value.code == "identical-checkpoints"


def test_a_damaged_file_that_is_left_out_hides_no_copy_and_stops_nothing(tmp_path: Path) -> None:
    folder = epochs(tmp_path, 2, 3)
    shutil.copyfile(folder / "epoch-3.safetensors", folder / "last.safetensors")
    (folder / "epoch-1.safetensors").write_bytes((folder / "epoch-2.safetensors").read_bytes()[:-3])
    assert discover(folder, last=2).names == ("epoch-2.safetensors", "epoch-3.safetensors")

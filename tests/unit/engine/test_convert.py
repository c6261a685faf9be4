"""Checkpoints written again as safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ladle_engine import CheckpointError, OutputError, convert_checkpoints, inspect
from tests.builders import make_checkpoints


@pytest.fixture
def pickles(tmp_path: Path) -> Path:
    """Two files of `torch.save` with an optimiser, beside a config."""
    folder = tmp_path / "run"
    folder.mkdir()
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        state = {"w": torch.randn(4, 6).T, "steps": torch.tensor(epoch), "h": torch.randn(3).half()}
        torch.save({"model": state, "optimizer": {"m": torch.zeros(9)}}, folder / f"epoch-{epoch}.pt")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_folder_of_pickles_becomes_one_of_safetensors_with_equal_weights(pickles: Path, tmp_path: Path) -> None:
    folders = convert_checkpoints(pickles, tmp_path / "out")
    assert folders == (tmp_path / "out/epoch-1", tmp_path / "out/epoch-2")
    for epoch, folder in enumerate(folders, start=1):
        expected = torch.load(pickles / f"epoch-{epoch}.pt", weights_only=True)["model"]
        found = load_file(folder / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert {name: each.dtype for name, each in found.items()} == {
            name: each.dtype for name, each in expected.items()
        }
        assert (folder / "config.json").read_text() == "{}"
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert file.metadata()["format"] == "pt"
    found_again = inspect(tmp_path / "out")
    assert [(each.step, each.usable) for each in found_again.checkpoints] == [(1, True), (2, True)]


def test_one_file_becomes_one_folder(pickles: Path, tmp_path: Path) -> None:
    assert convert_checkpoints(pickles / "epoch-2.pt", tmp_path / "out", dtype="bfloat16") == (tmp_path / "out",)
    found = load_file(tmp_path / "out/model.safetensors")
    assert {name: each.dtype for name, each in found.items()} == {
        "w": torch.bfloat16, "h": torch.bfloat16, "steps": torch.int64,
    }  # fmt: skip


def test_one_checkpoints_folder_becomes_one_folder_and_shards_are_cut_anew(tmp_path: Path) -> None:
    source = tmp_path / "checkpoint-5"
    source.mkdir()
    parts = {"a": torch.randn(1000), "b": torch.randn(1000)}
    files = {name: f"model-{number:05}-of-00002.safetensors" for number, name in enumerate(parts, start=1)}
    for name, file in files.items():
        save_file({name: parts[name]}, source / file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    convert_checkpoints(source, tmp_path / "one")
    assert torch.equal(load_file(tmp_path / "one/model.safetensors")["b"], parts["b"])
    convert_checkpoints(source, tmp_path / "two", max_shard_bytes=4000)
    assert (tmp_path / "two/model.safetensors.index.json").exists()
    assert not (tmp_path / "one/model.safetensors.index.json").exists()


def test_names_that_would_meet_keep_their_suffix(tmp_path: Path) -> None:
    source = tmp_path / "run"
    source.mkdir()
    torch.save({"w": torch.ones(2)}, source / "epoch-1.pt")
    save_file({"w": torch.zeros(2)}, source / "epoch-1.safetensors")
    folders = convert_checkpoints(source, tmp_path / "out")
    assert sorted(folder.name for folder in folders) == ["epoch-1.pt", "epoch-1.safetensors"]
    assert {float(load_file(folder / "model.safetensors")["w"][0]) for folder in folders} == {0.0, 1.0}


def test_quantised_or_integer_weights_are_converted_as_they_are(tmp_path: Path) -> None:
    torch.save({"q": torch.arange(4, dtype=torch.int8)}, tmp_path / "model.pt")
    convert_checkpoints(tmp_path / "model.pt", tmp_path / "out", dtype="float32")
    assert load_file(tmp_path / "out/model.safetensors")["q"].dtype == torch.int8


def test_filters_choose(pickles: Path, tmp_path: Path) -> None:
    assert convert_checkpoints(pickles, tmp_path / "out", exclude="epoch-1*") == (tmp_path / "out",)


def test_one_bad_checkpoint_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = make_checkpoints(tmp_path / "run", count=3)
    (folder / "epoch-2.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(CheckpointError, match=r"epoch-2\.safetensors"):
        convert_checkpoints(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_what_cannot_be_is_refused_with_the_rule(pickles: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="`source=` must be a checkpoint or a folder"):
        convert_checkpoints(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(CheckpointError, match="holds none"):
        convert_checkpoints(pickles, tmp_path / "out", pattern="step-*")
    with pytest.raises(ValueError, match="`dtype`"):
        convert_checkpoints(pickles, tmp_path / "out", dtype="int8")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="must be a new folder"):
        convert_checkpoints(pickles, tmp_path / "out")

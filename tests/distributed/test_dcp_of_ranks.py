"""DCP checkpoints that 2 and 4 ranks saved: each tensor comes out as torch's own loading gives it, bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from ladle_engine import CheckpointError, combine_checkpoints
from ladle_engine.checkpoints.files import Candidate
from ladle_engine.checkpoints.folder_scan import find
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.types import Checkpoint, TensorReader
from tests.distributed.start import run_module


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("saved")
    run_module("tests.distributed.dcp_rank", request.param, str(folder))
    return folder


def as_torch_loads(folder: Path, tmp_path: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_to_torch_save(folder, tmp_path / "whole.pt")
    # Written by torch just now.
    whole: dict[str, Any] = torch.load(tmp_path / "whole.pt", weights_only=False)
    return whole


def found_in(folder: Path, name: str) -> Checkpoint:
    found = find(name, folder)
    assert isinstance(found, Candidate)
    return found.checkpoint


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def assert_same(reader: TensorReader, expected: Mapping[str, Tensor]) -> None:
    infos = reader.tensors()
    assert infos.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (infos[name].shape, infos[name].dtype) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(bits(reader.read(name)), bits(tensor)), name
        for start in range(tensor.numel()):
            some = torch.empty(min(7, tensor.numel() - start), dtype=tensor.dtype)
            reader.read_into(name, start, some)
            assert torch.equal(bits(some), bits(tensor.contiguous().view(-1)[start : start + 7])), (name, start)


@pytest.mark.slow
def test_every_kind_of_tensor_comes_out_bit_for_bit(saved: Path, tmp_path: Path) -> None:
    expected = as_torch_loads(saved / "kinds", tmp_path)
    with open_checkpoint(found_in(saved, "kinds")) as reader:
        assert_same(reader, expected)


@pytest.mark.slow
def test_ranks_that_do_not_speak_with_each_other_describe_one_checkpoint(saved: Path, tmp_path: Path) -> None:
    expected = as_torch_loads(saved / "kinds", tmp_path)
    assert not (saved / "alone" / ".metadata").exists()
    with open_checkpoint(found_in(saved, "alone")) as reader:
        assert_same(reader, expected)


def test_shards_in_two_dimensions_come_out_bit_for_bit(saved: Path, tmp_path: Path) -> None:
    expected = as_torch_loads(saved / "grid", tmp_path)["model"]
    with open_checkpoint(found_in(saved, "grid")) as reader:
        assert_same(reader, expected)
        assert reader.notes == ("left out, because they are not weights: `step`",)


def test_safetensors_of_ranks_come_out_bit_for_bit(saved: Path, tmp_path: Path) -> None:
    expected = as_torch_loads(saved / "kinds", tmp_path)
    with open_checkpoint(found_in(saved, "safetensors")) as reader:
        assert_same(reader, {name: expected[name] for name in reader.tensors()})
        assert len(reader.tensors()) > 15


def weights_of(folder: Path, tmp_path: Path) -> dict[str, Tensor]:
    loaded = as_torch_loads(folder, tmp_path)
    return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}


def test_the_mean_is_that_of_torchs_own_loading(saved: Path, tmp_path: Path) -> None:
    one, two = (weights_of(saved / f"step-{step}", tmp_path) for step in (1, 2))
    combine_checkpoints(saved, output=tmp_path / "out", pattern="step-*")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == one.keys()
    for name, tensor in written.items():
        mean = ((one[name].double() + two[name].double()) / 2).to(tensor.dtype)
        assert torch.equal(tensor, mean if tensor.is_floating_point() else two[name]), name


def test_a_result_as_dcp_loads_with_the_optimiser_of_the_last_checkpoint(saved: Path, tmp_path: Path) -> None:
    combine_checkpoints(saved, output=tmp_path / "mean", pattern="step-*")
    combine_checkpoints(saved, output=tmp_path / "out", pattern="step-*", output_format="dcp", max_shard_bytes=20_000)
    last, written = as_torch_loads(saved / "step-2", tmp_path), as_torch_loads(tmp_path / "out", tmp_path)
    assert len(list((tmp_path / "out").glob("*.distcp"))) > 1
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    assert written.keys() == last.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in mean.items())
    moment = ("optimizer", "state", "up.weight", "exp_avg")
    assert torch.equal(below(written, moment), below(last, moment))
    assert below(written, moment).abs().sum() > 0
    state = {name: torch.zeros_like(tensor) for name, tensor in mean.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, checkpoint_id=tmp_path / "out")
    assert all(torch.equal(state[name], tensor) for name, tensor in mean.items())


def below(value: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        value = value[key]
    return value


def test_files_of_fsdp2s_ranks_are_one_checkpoint(saved: Path, tmp_path: Path) -> None:
    expected = weights_of(saved / "step-2", tmp_path)
    with open_checkpoint(found_in(saved, "step2_rank0.pt")) as reader:
        assert_same(reader, expected)
    combine_checkpoints(saved, output=tmp_path / "of ranks", pattern="step*_rank*")
    combine_checkpoints(saved, output=tmp_path / "of dcp", pattern="step-*")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("of ranks", "of dcp"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_missing_file_of_a_rank_is_told(saved: Path, tmp_path: Path) -> None:
    for step in (1, 2):
        (tmp_path / f"step{step}_rank0.pt").write_bytes((saved / f"step{step}_rank0.pt").read_bytes())
    with pytest.raises(CheckpointError, match=r"`up.weight` .* is a DTensor, which is one rank's part"):
        combine_checkpoints(tmp_path, output=tmp_path / "out")

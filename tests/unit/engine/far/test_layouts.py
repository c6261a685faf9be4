"""Layouts of tools in a store: DCP and adapters by ranges of bytes, and several runs by a glob or a common folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import nn

from ladle_engine import CheckpointError, EngineError, average, combine_checkpoints
from tests.builders import make_base, make_checkpoints, make_inputs
from tests.far_servers import S3
from tests.unit.engine.lora import OPTIONS, load_base, loaded, make_sweep, make_tokens

pytestmark = pytest.mark.filterwarnings("ignore")


def equal(one: Path, other: Path, name: str = "model.safetensors") -> bool:
    ours, theirs = load_file(one / name), load_file(other / name)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def make_dcp(folder: Path, seed: int, width: int) -> None:
    """A model of 4 * width^2 bytes, with the moments of its optimiser, which are twice that."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 8))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, width)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, sync_files=False), no_dist=True)


def test_of_dcp_folders_only_the_chunks_of_weights_are_fetched(s3: S3, tmp_path: Path) -> None:
    for step in (1, 2):
        make_dcp(tmp_path / "run" / f"step-{step}", seed=step, width=1200)
    size = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.distcp"))
    s3.put(tmp_path / "run", "dcp")
    combine_checkpoints(tmp_path / "run", output=tmp_path / "near")
    s3.sent = 0
    combine_checkpoints("s3://bucket/dcp", output=tmp_path / "far")
    assert equal(tmp_path / "near", tmp_path / "far")
    assert size > 2 * 3 * 4 * 1200**2
    # A third of it, and the rest of the blocks at both ends of each chunk.
    assert s3.sent < 0.6 * size


def test_adapters_and_their_base_model_are_read_where_they_are(s3: S3, tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "near", {"a": {}, "b": {"r": 2}})
    tokens = make_tokens(tmp_path / "val.npy")
    s3.put(tmp_path / "near", "lora")
    s3.put_bytes("lora/sweep/a/optimizer.pt", bytes(3_000_000))
    combine_checkpoints(sweep, output=tmp_path / "mean")
    combine_checkpoints("s3://bucket/lora/sweep", output=tmp_path / "far-mean")
    assert equal(tmp_path / "mean", tmp_path / "far-mean", "adapter_model.safetensors")
    assert not s3.of("lora/base")
    averaged = average(
        "s3://bucket/lora/sweep",
        tokens,
        base_model="s3://bucket/lora/base",
        output="s3://bucket/results/lora",
        task="causal-lm",
        task_options=OPTIONS,
        method="uniform",
    )
    assert averaged.folder == "s3://bucket/results/lora"
    assert not s3.of("optimizer.pt")
    here = tmp_path / "result"
    here.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (here / name).write_bytes(s3.get(f"results/lora/{name}"))
    assert loaded(load_base(tmp_path / "near" / "base"), here)


def test_a_base_is_read_where_it_is_by_its_address_or_its_name(s3: S3, tmp_path: Path) -> None:
    near = make_inputs(tmp_path / "near")
    make_base(near / "base.safetensors", near / "checkpoints" / "epoch-1.safetensors")
    s3.put(near, "based")
    chosen = {}
    for name, folder, base in (
        ("near", near / "checkpoints", near / "base.safetensors"),
        ("far", "s3://bucket/based/checkpoints", "s3://bucket/based/base.safetensors"),
        ("near by name", near / "checkpoints", "epoch-1.safetensors"),
        ("far by name", "s3://bucket/based/checkpoints", "epoch-1.safetensors"),
    ):
        average(folder, near / "val.npz", base=base, output=tmp_path / f"out {name}", method="model-stock")
        entry = json.loads((tmp_path / f"out {name}" / "coefficients.json").read_text())["candidates"]["model-stock"]
        chosen[name] = (entry["checkpoints"], entry["alpha"])
    assert chosen["far"] == chosen["near"]
    assert chosen["far by name"] == chosen["near by name"] != chosen["near"]
    assert chosen["far"][0][0] == "base:base.safetensors"


@pytest.mark.parametrize(
    "address", ["s3://bucket/sweep/run-*/checkpoints", "s3://bucket/sweep/run-[12]/checkpoints", "s3://bucket/sweep"]
)
def test_runs_of_a_sweep_are_found_by_a_glob_and_below_one_folder(s3: S3, tmp_path: Path, address: str) -> None:
    for number in (1, 2):
        make_checkpoints(tmp_path / "sweep" / f"run-{number}" / "checkpoints", seed=number, count=2)
    s3.put(tmp_path / "sweep", "sweep")
    s3.put_bytes("sweep/notes/large.log", bytes(3_000_000))
    near = str(tmp_path / address.removeprefix("s3://bucket/"))
    combine_checkpoints(near, output=tmp_path / "near")
    combine_checkpoints(address, output=tmp_path / "far")
    assert equal(tmp_path / "near", tmp_path / "far")
    assert not s3.of("large.log")


def test_a_glob_that_matches_nothing_says_so_with_its_address(s3: S3, tmp_path: Path) -> None:
    s3.put_bytes("sweep/notes.txt", b"x")
    with pytest.raises(EngineError, match=r"s3://bucket/sweep/run-\*") as caught:
        combine_checkpoints("s3://bucket/sweep/run-*", output=tmp_path / "far")
    assert isinstance(caught.value, CheckpointError)

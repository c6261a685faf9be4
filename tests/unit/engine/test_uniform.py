"""Checkpoints combined with fixed weights, with no data and no model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ladle_engine import CheckpointError, OutputError, combine_checkpoints

K = 3
NAMES = ("embed", "half", "double", "frozen", "steps")


def states() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    frozen = torch.tensor([-0.0, 1e-42, 0.1])
    return [
        {
            # Larger than a block, and no multiple of a chunk.
            "embed": torch.randn(1031, 1024, generator=generator),
            "half": torch.randn(7, 5, generator=generator).to(torch.bfloat16),
            "double": torch.randn(9, generator=generator, dtype=torch.float64),
            "frozen": frozen.clone(),
            "steps": torch.tensor(100 + number),
        }
        for number in range(K)
    ]


def folder_of(tmp_path: Path, made: list[dict[str, Tensor]]) -> Path:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for number, state in enumerate(made, start=1):
        save_file(state, folder / f"step-{number}.safetensors")
    return folder


# Powers of two as weights: their products are exact, fused with the addition or not.
def expected(made: list[dict[str, Tensor]], name: str, weights: list[float] | None) -> Tensor:
    total = np.zeros(made[0][name].shape)
    for number, state in enumerate(made):
        total += state[name].to(torch.float64).numpy() * (1.0 if weights is None else weights[number])
    return torch.from_numpy(total / (len(made) if weights is None else 1.0)).to(made[0][name].dtype)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, -0.5]])
def test_every_floating_tensor_is_the_float64_sum_rounded_once_to_its_own_type(
    tmp_path: Path, weights: list[float] | None
) -> None:
    made = states()
    output = combine_checkpoints(folder_of(tmp_path, made), output=tmp_path / "out", weights=weights)
    model = load_file(output / "model.safetensors")
    assert set(model) == set(NAMES)
    for name in ("embed", "half", "double"):
        assert model[name].dtype == made[0][name].dtype
        assert torch.equal(model[name], expected(made, name, weights)), name
    assert torch.equal(model["frozen"].view(torch.int32), made[0]["frozen"].view(torch.int32)), "bit for bit"
    assert int(model["steps"]) == 100 + K - 1, "integers are the last checkpoint's"


def test_sharded_checkpoints_become_one_model_with_its_side_files(tmp_path: Path) -> None:
    made = states()
    for number, state in enumerate(made, start=1):
        home = tmp_path / "checkpoints" / f"checkpoint-{number}"
        home.mkdir(parents=True)
        weight_map = {name: f"model-0000{shard}-of-00005.safetensors" for shard, name in enumerate(NAMES, start=1)}
        for name, file in weight_map.items():
            save_file({name: state[name]}, home / file)
        (home / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        (home / "config.json").write_text(json.dumps({"number": number}))
    output = combine_checkpoints(tmp_path / "checkpoints", output=tmp_path / "out")
    assert sorted(path.name for path in output.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((output / "config.json").read_text()) == {"number": K}
    assert torch.equal(load_file(output / "model.safetensors")["embed"], expected(made, "embed", None))


def test_tied_tensors_are_written_under_each_name_that_is_stored(tmp_path: Path) -> None:
    made = [{"embed": torch.full((4,), float(n)), "head": torch.full((4,), float(n))} for n in range(2)]
    output = combine_checkpoints(folder_of(tmp_path, made), output=tmp_path / "out")
    model = load_file(output / "model.safetensors")
    assert torch.equal(model["embed"], torch.full((4,), 0.5))
    assert torch.equal(model["embed"], model["head"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.5], r"one for each of the 3 checkpoints, but are 2"),
        ([float("nan"), 0.5, 0.5], r"`weights` must be finite, but are \[nan, 0.5, 0.5\]"),
        (0.5, r"must be a list of numbers, one per checkpoint in order, but is 0.5"),
        ("abc", r"must be a list of numbers, one per checkpoint in order, but is 'abc'"),
        ([None, 0.5, 0.5], r"must be a list of numbers, one per checkpoint in order, but is \[None, 0.5, 0.5\]"),
        ({"a": 0.5, "b": 0.5}, r"must be a list of numbers, one per checkpoint in order, but is \{'a'"),
        ([0.5, 0.5, 0.5], r"must sum to 1 without `allow_any_sum`, but sum to 1.5"),
    ],
)
def test_bad_weights_are_refused_and_leave_nothing(tmp_path: Path, weights: Any, message: str) -> None:
    folder = folder_of(tmp_path, states())
    with pytest.raises(ValueError, match=message):
        combine_checkpoints(folder, output=tmp_path / "out", weights=weights)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("size", [0, -1, "5GB", True, None, 1.5])
def test_a_size_of_shards_that_is_no_whole_number_is_refused_and_leaves_nothing(tmp_path: Path, size: Any) -> None:
    folder = folder_of(tmp_path, states())
    with pytest.raises(ValueError, match="`max_shard_bytes` must be a whole number from 1 to 2\\^63 - 1, but is"):
        combine_checkpoints(folder, output=tmp_path / "out", max_shard_bytes=size)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_weights_of_any_sum_scale_tensors_that_are_the_same_everywhere_too(tmp_path: Path) -> None:
    made = states()
    weights = [1.0, 1.0, 1.0]
    output = combine_checkpoints(
        folder_of(tmp_path, made), output=tmp_path / "out", weights=weights, allow_any_sum=True
    )
    model = load_file(output / "model.safetensors")
    for name in ("embed", "half", "double", "frozen"):
        assert torch.equal(model[name], expected(made, name, weights)), name


def test_another_dtype_and_a_choice_of_checkpoints(tmp_path: Path) -> None:
    made = states()
    output = combine_checkpoints(
        folder_of(tmp_path, made), output=tmp_path / "out", last=2, weights=[0.25, 0.75], dtype="float16"
    )
    model = load_file(output / "model.safetensors")
    mixed = 0.25 * made[1]["double"] + 0.75 * made[2]["double"]
    assert torch.equal(model["double"], mixed.to(torch.float16))
    assert model["steps"].dtype == torch.int64
    with pytest.raises(ValueError, match="`dtype` must be one of keep, float32, bfloat16, float16, but is 'int8'"):
        combine_checkpoints(tmp_path / "checkpoints", output=tmp_path / "other", dtype="int8")


@pytest.mark.parametrize("frozen", [False, True])
def test_a_nan_is_refused_by_name_though_weights_are_read_once_only(tmp_path: Path, frozen: bool) -> None:
    made = states()
    for state in made if frozen else made[1:2]:
        state["double"] = torch.full((9,), float("nan"), dtype=torch.float64)
    named = "step-1" if frozen else "step-2"
    with pytest.raises(CheckpointError, match=rf"`double` in `{named}\.safetensors` holds 9 NaN") as caught:
        combine_checkpoints(folder_of(tmp_path, made), output=tmp_path / "out")
    assert caught.value.code == "non-finite-weights"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_checkpoints_of_different_shapes_and_an_existing_output_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [{"w": torch.zeros(2)}, {"w": torch.zeros(3)}])
    with pytest.raises(CheckpointError, match=r"`w` has shape \(2,\)"):
        combine_checkpoints(folder, output=tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists"):
        combine_checkpoints(folder, output=tmp_path / "out")


def test_the_path_imports_no_transformers(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, states())
    program = (
        "import sys; from ladle_engine import combine_checkpoints\n"
        f"combine_checkpoints({str(folder)!r}, output={str(tmp_path / 'out')!r})\n"
        "assert 'transformers' not in sys.modules and 'PIL' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

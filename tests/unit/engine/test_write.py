"""The written model is `sum(alpha_i w_i)` of the files, to the last bit, and appears whole or not at all."""

from __future__ import annotations

import errno
import json
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ladle_engine import Coefficients, OutputError, discover
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.output.model_writer import verify_model, write_model
from ladle_engine.output.recipe import Recipe, combine
from ladle_engine.output.safetensors_writer import SafetensorsWriter
from ladle_engine.progress import ignore
from ladle_engine.storage.atomic_folder import fresh_folder, staged

K = 7


def folder_of(tmp_path: Path, states: list[dict[str, Tensor]]) -> CheckpointSet:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for number, state in enumerate(states, start=1):
        save_file(state, folder / f"step-{number}.safetensors")
    return discover(folder)


def random_states(dtype: torch.dtype = torch.float32, count: int = K) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    frozen = torch.randn(5, generator=generator).to(dtype)
    return [
        {
            "weight": torch.randn(40, 30, generator=generator).to(dtype),
            "scalar": torch.randn((), generator=generator).to(dtype),
            "empty": torch.empty(0, 3, dtype=dtype),
            "frozen": frozen,
            "steps": torch.tensor(number),
            "mask": torch.tensor([True, number % 2 == 0]),
        }
        for number in range(count)
    ]


def recipe_of(checkpoints: CheckpointSet, alpha_K: Tensor, dtype: torch.dtype | None = None) -> Recipe:
    floating = [name for name, info in checkpoints.tensors.items() if info.is_floating]
    return Recipe(
        checkpoints=checkpoints,
        coefficients=Coefficients.whole_model(checkpoints.names, tuple(floating), alpha_K),
        output_dtypes={
            name: dtype if dtype is not None and info.is_floating else info.dtype
            for name, info in checkpoints.tensors.items()
        },
        statistics={},
    )


def written(folder: Path, recipe: Recipe, max_shard_bytes: int = 1 << 30) -> dict[str, str]:
    folder.mkdir()
    digests = write_model(folder, recipe, max_shard_bytes=max_shard_bytes, metadata={"by": "test"}, on_event=ignore)
    verify_model(folder, recipe, digests, ignore)
    return digests


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_uniform_average_is_the_arithmetic_mean_in_float64_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    states = random_states(dtype)
    written(tmp_path / "out", recipe_of(folder_of(tmp_path, states), torch.full((K,), 1 / K, dtype=torch.float64)))
    model = load_file(tmp_path / "out" / "model.safetensors")
    for name in ("weight", "scalar"):
        sum_ = np.zeros(states[0][name].shape, dtype=np.float64)
        for state in states:
            sum_ += state[name].to(torch.float64).numpy()
        assert torch.equal(model[name], torch.from_numpy(np.asarray(sum_ / K)).to(dtype)), name
        assert model[name].dtype == dtype
    assert torch.equal(model["frozen"], states[0]["frozen"])
    assert model["empty"].shape == (0, 3)
    assert int(model["steps"]) == K - 1, "counters are the last checkpoint's"
    assert model["mask"].tolist() == [True, (K - 1) % 2 == 0]


def test_weights_of_any_sign_sum_in_float64(tmp_path: Path) -> None:
    states = random_states()
    alpha_K = torch.tensor([0.7, -1.3, 0.2, 0.9, 0.4, 0.05, 0.05], dtype=torch.float64)
    written(tmp_path / "out", recipe_of(folder_of(tmp_path, states), alpha_K))
    exact = np.zeros((40, 30), dtype=np.longdouble)
    for alpha, state in zip(alpha_K.tolist(), states, strict=True):
        exact += np.longdouble(alpha) * state["weight"].numpy().astype(np.longdouble)
    weight = load_file(tmp_path / "out" / "model.safetensors")["weight"].numpy()
    error = np.abs(weight.astype(np.longdouble) - exact)
    assert np.all(error <= 0.5000001 * np.spacing(np.abs(weight))), "the nearest float32 to the exact sum"


def test_a_frozen_tensor_comes_out_bit_for_bit_even_with_signed_zeros_and_denormals() -> None:
    frozen = torch.tensor([-0.0, 0.0, 1e-42, 0.1])
    combined = combine([frozen, frozen.clone()], torch.tensor([0.3, 0.7], dtype=torch.float64), torch.float32)
    assert torch.equal(combined.view(torch.int32), frozen.view(torch.int32))


def test_one_checkpoint_alone_is_copied_with_its_own_counters(tmp_path: Path) -> None:
    states = random_states()
    alpha_K = torch.zeros(K, dtype=torch.float64)
    alpha_K[2] = 1.0
    written(tmp_path / "out", recipe_of(folder_of(tmp_path, states), alpha_K))
    model = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(model[name], tensor) for name, tensor in states[2].items())


def test_another_dtype_is_rounded_to_and_leaves_integers_alone(tmp_path: Path) -> None:
    states = random_states()
    recipe = recipe_of(folder_of(tmp_path, states), torch.full((K,), 1 / K, dtype=torch.float64), torch.bfloat16)
    written(tmp_path / "out", recipe)
    model = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: str(tensor.dtype) for name, tensor in model.items()} == {
        "weight": "torch.bfloat16", "scalar": "torch.bfloat16", "empty": "torch.bfloat16", "frozen": "torch.bfloat16",
        "steps": "torch.int64", "mask": "torch.bool",
    }  # fmt: skip


def test_the_file_says_pt_for_transformers_and_where_it_comes_from(tmp_path: Path) -> None:
    written(tmp_path / "out", recipe_of(folder_of(tmp_path, random_states()), torch.full((K,), 1 / K)))
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "by": "test"}


def test_shards_hold_every_tensor_once_and_the_index_says_where(tmp_path: Path) -> None:
    states = [
        {f"t{i}": torch.randn(10, generator=torch.Generator().manual_seed(i + n)) for i in range(6)} for n in (1, 9)
    ]
    digests = written(
        tmp_path / "out", recipe_of(folder_of(tmp_path, states), torch.tensor([0.5, 0.5])), max_shard_bytes=90
    )
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert sorted(digests) == [*shards, "model.safetensors.index.json"]
    assert index["metadata"]["total_size"] == 6 * 40
    for name, file in index["weight_map"].items():
        tensor = load_file(tmp_path / "out" / file)[name]
        assert torch.equal(tensor, ((states[0][name].double() + states[1][name].double()) / 2).float())
    assert sum((tmp_path / "out" / shard).stat().st_size > 0 for shard in shards) == 3


def test_a_disk_that_forgets_is_noticed(tmp_path: Path) -> None:
    recipe = recipe_of(folder_of(tmp_path, random_states()), torch.full((K,), 1 / K))
    digests = written(tmp_path / "out", recipe)
    path = tmp_path / "out" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(OutputError, match="must read back as it was written"):
        verify_model(tmp_path / "out", recipe, digests, ignore)


def test_a_disk_without_room_is_refused_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(folder_of(tmp_path, random_states()), torch.full((K,), 1 / K))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("ladle_engine.output.folder.shutil.disk_usage", lambda path: usage(10_000, 9_000, 1_000))
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match=r"bytes of free disk, but .* has 1,000") as caught:
        write_model(tmp_path / "out", recipe, max_shard_bytes=1 << 30, metadata={}, on_event=ignore)
    assert caught.value.code == "disk-full"
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught, staged(tmp_path / "out") as staging:
        (staging / "half").write_bytes(b"x" * 100)
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.code == "disk-full"
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_in_the_writing_thread_ends_the_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(folder_of(tmp_path, random_states()), torch.full((K,), 1 / K))

    def full(writer: SafetensorsWriter, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SafetensorsWriter, "_write", full)
    with pytest.raises(OutputError) as caught, staged(tmp_path / "out") as staging:
        write_model(staging, recipe, max_shard_bytes=1 << 30, metadata={}, on_event=ignore)
    assert caught.value.code == "disk-full"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_another_error_or_an_interrupt_leaves_nothing_either(tmp_path: Path) -> None:
    for error in (PermissionError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)), staged(tmp_path / "out") as staging:
            (staging / "half").write_bytes(b"x")
            raise error
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_an_output_that_exists_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out"
    if kind == "folder":
        output.mkdir()
    elif kind == "file":
        output.write_text("mine")
    else:
        output.symlink_to(tmp_path / "nowhere")
    for make in (staged, fresh_folder):
        with pytest.raises(OutputError, match="exists") as caught, make(output):
            raise AssertionError("the block must not run")
        assert caught.value.code == "output-exists"
    assert output.is_symlink() or output.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_of_two_writers_of_one_output_the_second_is_refused_and_the_first_result_stays(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"), staged(tmp_path / "out") as slow:
        (slow / "model").write_text("slow")
        with staged(tmp_path / "out") as fast:
            (fast / "model").write_text("fast")
    assert (tmp_path / "out" / "model").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

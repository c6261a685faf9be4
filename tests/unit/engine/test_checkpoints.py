"""What is found in a folder, in which order, and what is refused with which words."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ladle_engine import CheckpointError, check, discover
from ladle_engine.checkpoints import open_checkpoint
from ladle_engine.progress import ignore


def weights(value: float = 0.0, **more: Tensor) -> dict[str, Tensor]:
    return {"layer.weight": torch.full((3, 2), value), "layer.bias": torch.arange(3.0) + value, **more}


def safetensors(folder: Path, *names: str, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names, start=start):
        save_file(weights(float(number)), folder / name)
    return folder


def refused(code: str, folder: Path, **filters: object) -> str:
    """The message of the refusal, which must have this code."""
    with pytest.raises(CheckpointError) as caught:
        check(discover(folder, **filters), ignore)  # type: ignore[arg-type]
    assert caught.value.code == code, caught.value
    return str(caught.value)


def test_checkpoints_come_in_order_of_their_step_and_not_of_their_letters(tmp_path: Path) -> None:
    safetensors(tmp_path, "epoch-10.safetensors", "epoch-9.safetensors", "epoch-100.safetensors")
    found = discover(tmp_path)
    assert found.names == ("epoch-9.safetensors", "epoch-10.safetensors", "epoch-100.safetensors")
    assert [checkpoint.step for checkpoint in found.checkpoints] == [9, 10, 100]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("epoch=3-step=1200.ckpt", 1200),
        ("step_400_loss_0.31.pt", 400),
        ("model-0007.pth", 7),
        ("v2-epoch-05.safetensors", 5),
        ("epoch=10-val_loss=0.29.ckpt", 10),
        ("resnet18-epoch7-v2.pt", 7),
        ("loss0.31-8.pt", 8),
        ("model.12.pt", 12),
        ("acc=91.25.pt", None),
        ("final.safetensors", None),
    ],
)
def test_the_step_is_read_from_the_name(tmp_path: Path, name: str, step: int | None) -> None:
    for each in (name, "other-1.safetensors"):
        (save_file if each.endswith(".safetensors") else torch.save)(weights(), tmp_path / each)  # type: ignore[operator]
    found = {checkpoint.name: checkpoint.step for checkpoint in discover(tmp_path).checkpoints}
    assert found[name] == step


def test_what_has_no_step_comes_last_by_natural_name(tmp_path: Path) -> None:
    safetensors(tmp_path, "final.safetensors", "best.safetensors", "step-2.safetensors")
    assert discover(tmp_path).names == ("step-2.safetensors", "best.safetensors", "final.safetensors")


def test_trainer_folders_give_their_weights_step_and_config_and_not_their_optimiser(tmp_path: Path) -> None:
    for step in (100, 20):
        home = tmp_path / f"checkpoint-{step}"
        safetensors(home, "model.safetensors", start=step)
        (home / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        (home / "config.json").write_text(json.dumps({"from": step}))
        (home / "tokenizer.json").write_text("{}")
        torch.save({"lr": 1}, home / "optimizer.pt")
    (tmp_path / "runs").mkdir()
    found = discover(tmp_path)
    assert found.names == ("checkpoint-20", "checkpoint-100")
    assert found.config == {"from": 100}, "the last checkpoint is the reference"
    assert sorted(path.name for path in found.side_files) == ["config.json", "tokenizer.json"]


def test_shards_of_an_index_are_one_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2):
        home = tmp_path / f"checkpoint-{step}"
        home.mkdir()
        state = weights(float(step))
        save_file({"layer.weight": state["layer.weight"]}, home / "model-00001-of-00002.safetensors")
        save_file({"layer.bias": state["layer.bias"]}, home / "model-00002-of-00002.safetensors")
        files = {"layer.weight": "model-00001-of-00002.safetensors", "layer.bias": "model-00002-of-00002.safetensors"}
        (home / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    found = discover(tmp_path)
    assert set(found.tensors) == {"layer.weight", "layer.bias"}
    with open_checkpoint(found.checkpoints[1]) as reader:
        assert torch.equal(reader.read("layer.bias"), weights(2.0)["layer.bias"])


def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    safetensors(tmp_path / "outside", "secret.safetensors")
    folder = safetensors(tmp_path / "in", "step-2.safetensors")
    home = folder / "checkpoint-1"
    home.mkdir()
    (home / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../outside/secret.safetensors"}})
    )
    assert "shards beside it" in refused("corrupt-checkpoint", folder)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "optimizer": {"lr": torch.tensor(1.0)}, "epoch": 3},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": state, "args": 1}},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"model": {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"ema": {name: tensor + 5 for name, tensor in state.items()}, "model": state},
    ],
    ids=["plain", "model", "state_dict", "twice", "module", "compiled", "ema-beside"],
)
def test_nested_and_wrapped_state_dicts_give_the_same_names_and_values(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Mapping[str, object]]
) -> None:
    for number in (1, 2):
        torch.save(wrap(weights(float(number))), tmp_path / f"epoch-{number}.pt")
    found = discover(tmp_path)
    check(found, ignore)
    assert set(found.tensors) == {"layer.weight", "layer.bias"}
    with open_checkpoint(found.checkpoints[0]) as reader:
        assert torch.equal(reader.read("layer.weight"), weights(1.0)["layer.weight"])


def test_the_format_of_before_torch_1_6_reads_too(tmp_path: Path) -> None:
    for number in (1, 2):
        torch.save(weights(float(number)), tmp_path / f"{number}.pth", _use_new_zipfile_serialization=False)
    found = discover(tmp_path)
    check(found, ignore)
    for number, checkpoint in enumerate(found.checkpoints, start=1):
        with open_checkpoint(checkpoint) as reader:
            assert {name: reader.read(name).tolist() for name in reader.tensors()} == {
                name: tensor.tolist() for name, tensor in weights(float(number)).items()
            }


def test_filters_keep_a_pattern_the_last_n_or_named_steps(tmp_path: Path) -> None:
    safetensors(tmp_path, *(f"epoch-{number}.safetensors" for number in range(1, 6)), "ema-7.safetensors")
    assert discover(tmp_path, pattern="epoch-*").names[-1] == "epoch-5.safetensors"
    assert discover(tmp_path, exclude="ema*", last=2).names == ("epoch-4.safetensors", "epoch-5.safetensors")
    assert discover(tmp_path, pattern="epoch-*", last=2).names == ("epoch-4.safetensors", "epoch-5.safetensors")
    assert discover(tmp_path, steps=[2, 4]).names == ("epoch-2.safetensors", "epoch-4.safetensors")


def test_filters_that_leave_nothing_say_what_there_is(tmp_path: Path) -> None:
    safetensors(tmp_path, "epoch-1.safetensors", "epoch-2.safetensors")
    assert "`x*` matches none of: `epoch-1.safetensors`" in refused("no-checkpoints", tmp_path, pattern="x*")
    assert "7 is none. There are: 1, 2" in refused("no-checkpoints", tmp_path, steps=[1, 7])
    assert "1 of 2" in refused("too-few-checkpoints", tmp_path, last=1)


def test_a_missing_an_empty_and_a_lonely_folder_are_refused(tmp_path: Path) -> None:
    assert f"`{tmp_path / 'nowhere'}` does not exist" in refused("no-checkpoints", tmp_path / "nowhere")
    (tmp_path / "notes.md").write_text("hello")
    assert "holds none" in refused("no-checkpoints", tmp_path)
    safetensors(tmp_path, "one.safetensors")
    assert "holds 1: `one.safetensors`" in refused("too-few-checkpoints", tmp_path)


def test_identical_checkpoints_are_refused(tmp_path: Path) -> None:
    for number in range(3):
        save_file(weights(), tmp_path / f"{number}.safetensors")
    assert "The 3 checkpoints" in refused("identical-checkpoints", tmp_path)


@pytest.mark.parametrize("kept", [4, 20, 150, -1])
def test_a_truncated_safetensors_file_is_named(tmp_path: Path, kept: int) -> None:
    safetensors(tmp_path, "epoch-1.safetensors", "epoch-2.safetensors")
    victim = tmp_path / "epoch-1.safetensors"
    victim.write_bytes(victim.read_bytes()[:kept])
    assert f"`{victim}`" in refused("corrupt-checkpoint", tmp_path)


def with_header(path: Path, header: object, data: bytes = b"\0" * 8) -> None:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}, "does not fill its 8 bytes"),
        ({"a": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 8]}}, "does not fill"),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, "whole numbers"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, "gap or an overlap"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {}}, "describe `b`"),
        ({"a": {"dtype": "Q7", "shape": [2], "data_offsets": [0, 8]}}, "'Q7'"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "truncated"),
        ([1, 2], "header object"),
        (b"{" * 200, "does not parse"),
        (b"[" * 100_000, "does not parse"),
    ],
)
def test_a_header_that_lies_is_not_believed(tmp_path: Path, header: object, words: str) -> None:
    safetensors(tmp_path, "epoch-1.safetensors", "epoch-2.safetensors")
    with_header(tmp_path / "epoch-1.safetensors", header)
    assert words in refused("corrupt-checkpoint", tmp_path)


def test_a_header_that_claims_to_be_huge_is_refused_before_it_is_read(tmp_path: Path) -> None:
    safetensors(tmp_path, "epoch-2.safetensors")
    (tmp_path / "epoch-1.safetensors").write_bytes((1 << 50).to_bytes(8, "little") + b"{}")
    assert f"claims {1 << 50:,} bytes" in refused("corrupt-checkpoint", tmp_path)


class Canary:
    """Would leave a file behind if anything ran it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, save: Callable[[object, Path], object]) -> None:
    canary = tmp_path / "canary"
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save(weights(1.0), folder / "epoch-1.pt")
    save({"evil": Canary(canary), "epoch": 2}, folder / "epoch-2.pt")
    message = refused("unsafe-checkpoint", folder)
    assert "`posix.system`" in message
    assert "epoch-2.pt" in message
    assert not canary.exists()
    # The canary works: without our refusal the file would be there.
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists()


@pytest.mark.parametrize("value", [[1, 2], {"epoch": 3}, {"model": {"a": 1}}, torch.zeros(2)])
def test_a_pickle_without_a_state_dict_says_what_it_holds(tmp_path: Path, value: object) -> None:
    torch.save(weights(), tmp_path / "epoch-1.pt")
    torch.save(value, tmp_path / "epoch-2.pt")
    message = refused("corrupt-checkpoint", tmp_path)
    assert "must hold a state dict of tensors, itself or under `state_dict`" in message
    assert "but holds a" in message


@pytest.mark.parametrize("kept", [10, 300])
def test_a_truncated_pickle_is_named(tmp_path: Path, kept: int) -> None:
    for number in (1, 2):
        torch.save(weights(float(number)), tmp_path / f"epoch-{number}.pt")
    victim = tmp_path / "epoch-2.pt"
    victim.write_bytes(victim.read_bytes()[:kept])
    assert f"`{victim}`" in refused("corrupt-checkpoint", tmp_path)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (
            {"layer.weight": torch.zeros(3, 4), "layer.bias": torch.zeros(3)},
            "has shape (3, 4) in `epoch-2.safetensors`",
        ),
        ({"layer.weigth": torch.zeros(3, 2), "layer.bias": torch.zeros(3)}, "`layer.weigth` instead; was it renamed?"),
        ({**weights(), "head.weight": torch.zeros(2)}, "has `head.weight`, which `epoch-3.safetensors` lacks"),
        ({"layer.weight": torch.zeros(3, 2)}, "lacks the tensor `layer.bias`"),
        ({**weights(), "layer.bias": torch.zeros(3, dtype=torch.int64)}, "an integer tensor and a floating one"),
    ],
    ids=["architecture", "renamed", "extra", "missing", "kind"],
)
def test_the_odd_one_out_is_named_with_its_tensor(tmp_path: Path, odd: dict[str, Tensor], words: str) -> None:
    safetensors(tmp_path, "epoch-1.safetensors", "epoch-3.safetensors")
    save_file(odd, tmp_path / "epoch-2.safetensors")
    message = refused("mismatched-checkpoints", tmp_path).replace("a integer", "an integer")
    assert words in message
    assert "`epoch-2.safetensors`" in message


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_weights_that_are_not_finite_are_counted_and_named(tmp_path: Path, bad: float, dtype: torch.dtype) -> None:
    for number in (1, 2):
        state = {"layer.weight": torch.full((3, 2), float(number))}
        if number == 1:
            state["layer.weight"][1, 1] = bad
        save_file({name: tensor.to(dtype) for name, tensor in state.items()}, tmp_path / f"epoch-{number}.safetensors")
    message = refused("non-finite-weights", tmp_path)
    assert "`layer.weight` in `epoch-1.safetensors` holds 1 NaN" in message


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    safetensors(tmp_path / "secret", "epoch-1.safetensors")
    folder = safetensors(tmp_path / "mine", "epoch-2.safetensors")
    (folder / "epoch-1.safetensors").symlink_to(tmp_path / "secret" / "epoch-1.safetensors")
    assert "leads out" in refused("path-not-allowed", folder)
    (folder / "epoch-1.safetensors").unlink()
    (folder / "checkpoint-1").symlink_to(tmp_path / "secret")
    assert "leads out" in refused("path-not-allowed", folder)


def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path) -> None:
    safetensors(tmp_path, "epoch-1.safetensors", "epoch-2.safetensors")
    for text in ("{", "[]", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        assert "config.json" in refused("corrupt-checkpoint", tmp_path)


def test_any_damage_to_a_pickle_is_named_as_damage(tmp_path: Path) -> None:
    """Whatever torch raises for it: the reason is the file."""
    for number in (1, 2):
        torch.save(weights(float(number)), tmp_path / f"epoch-{number}.pt")
    victim = tmp_path / "epoch-2.pt"
    whole = victim.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        position, value = torch.randint(len(whole), (1,), generator=generator), torch.randint(256, (1,))
        damaged = bytearray(whole)
        damaged[int(position)] = int(value)
        victim.write_bytes(damaged)
        # Damage inside a tensor may leave a sound file with other numbers.
        with suppress(CheckpointError):
            check(discover(tmp_path), ignore)


def test_an_optimisers_file_is_no_checkpoint(tmp_path: Path) -> None:
    for number in (1, 2):
        torch.save(weights(float(number)), tmp_path / f"epoch-{number}.pt")
        torch.save({"state": {}, "lr": 0.1}, tmp_path / f"optim_{number}.pt")
    assert discover(tmp_path).names == ("epoch-1.pt", "epoch-2.pt")

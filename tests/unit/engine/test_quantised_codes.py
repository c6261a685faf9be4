"""Codes of quantised weights are refused, counters keep their rule: the last checkpoint's value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils import prune

from ladle_engine import CheckpointError, check, combine_checkpoints, discover
from ladle_engine.checkpoints.tensor_kinds import same_bits
from ladle_engine.progress import ignore

Make = Callable[[int], dict[str, Tensor]]


def ints(i: int, *shape: int, dtype: torch.dtype = torch.int8) -> Tensor:
    return torch.randint(0, 100, shape, dtype=dtype, generator=torch.Generator().manual_seed(i))


def floats(i: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(i))


CODES: dict[str, tuple[Make, str]] = {
    "one code": (lambda i: {"w": torch.tensor([10 * i], dtype=torch.int8), "SCB": torch.tensor([1.0 / i])}, "w"),
    "one code without a dimension": (
        lambda i: {"w": torch.tensor(10 * i, dtype=torch.int8), "SCB": torch.tensor(1.0 / i)},
        "w",
    ),
    "codes without a scale": (lambda i: {"fc.weight": ints(i, 4, 4), "fc.bias": floats(i, 4)}, "fc.weight"),
    "bitsandbytes int8": (
        lambda i: {
            "fc.weight": ints(i, 4, 4),
            "fc.SCB": floats(i, 4),
            "fc.weight_format": torch.tensor(0, dtype=torch.uint8),
        },
        "fc.weight",
    ),
    "bitsandbytes nf4": (
        lambda i: {
            "fc.weight": ints(i, 8, 1, dtype=torch.uint8),
            "fc.weight.absmax": floats(i, 1),
            "fc.weight.quant_map": floats(0, 16),
            "fc.weight.quant_state.bitsandbytes__nf4": ints(0, 60, dtype=torch.uint8),
        },
        "fc.weight",
    ),
    "gptq": (
        lambda i: {
            "fc.qweight": ints(i, 2, 8, dtype=torch.int32),
            "fc.qzeros": ints(0, 1, 1, dtype=torch.int32),
            "fc.scales": floats(i, 1, 8).half(),
            "fc.g_idx": torch.zeros(16, dtype=torch.int32),
        },
        "fc.qweight",
    ),
    "gptq's order of columns": (
        lambda i: {
            "fc.qweight": ints(0, 2, 8, dtype=torch.int32),
            "fc.scales": floats(i, 1, 8).half(),
            "fc.g_idx": ints(i, 16, dtype=torch.int32),
        },
        "fc.g_idx",
    ),
    "awq": (
        lambda i: {
            "fc.qweight": ints(0, 16, 1, dtype=torch.int32),
            "fc.qzeros": ints(i, 1, 1, dtype=torch.int32),
            "fc.scales": floats(i, 1, 8).half(),
        },
        "fc.qzeros",
    ),
    "compressed tensors": (
        lambda i: {
            "fc.weight_packed": ints(i, 4, 2, dtype=torch.int32),
            "fc.weight_scale": floats(i, 4, 1),
            "fc.weight_shape": torch.tensor([4, 16]),
        },
        "fc.weight_packed",
    ),
    "torchao int8": (
        lambda i: {"fc._weight_qdata": ints(i, 4, 4), "fc._weight_scale": floats(i, 4)},
        "fc._weight_qdata",
    ),
    "mxfp4": (
        lambda i: {
            "experts.down_proj_blocks": ints(i, 2, 4, 16, dtype=torch.uint8),
            "experts.down_proj_scales": ints(i, 2, 4, dtype=torch.uint8),
            "experts.down_proj_bias": floats(i, 4),
        },
        "experts.down_proj_blocks",
    ),
    "int64 codes": (lambda i: {"codes": ints(i, 8, dtype=torch.int64), "codebook": floats(i, 8, 2)}, "codes"),
    "int64 beside a scale": (lambda i: {"fc.w": ints(i, 8, dtype=torch.int64), "fc.scale": floats(i, 1)}, "fc.w"),
    "an int64 table": (lambda i: {"table": ints(i, 8, 8, dtype=torch.int64), "w": floats(i, 1)}, "table"),
    "a zero point": (
        lambda i: {
            "fc.weight": floats(i, 4),
            "fc.fake_quant.scale": floats(i, 1),
            "fc.fake_quant.zero_point": torch.tensor([i], dtype=torch.int32),
        },
        "fc.fake_quant.zero_point",
    ),
    "float8 with scales of rows": (
        lambda i: {"fc.weight": floats(i, 4, 4).to(torch.float8_e4m3fn), "fc.weight_scale": floats(i, 4)},
        "fc.weight",
    ),
    "float8 with scales of blocks": (
        lambda i: {"fc.weight": floats(i, 4, 4).to(torch.float8_e4m3fn), "fc.weight_scale_inv": floats(i, 1, 1)},
        "fc.weight",
    ),
}


def saved(folder: Path, make: Make) -> Path:
    folder.mkdir()
    for number in (1, 2):
        save_file(make(number), folder / f"step-{number}.safetensors")
    return folder


@pytest.mark.parametrize(("make", "name"), CODES.values(), ids=CODES)
def test_codes_that_differ_are_refused_by_name(tmp_path: Path, make: Make, name: str) -> None:
    folder = saved(tmp_path / "in", make)
    for call in (
        lambda: combine_checkpoints(folder, output=tmp_path / "out"),
        lambda: check(discover(folder), ignore),
    ):
        with pytest.raises(CheckpointError) as caught:
            call()
        assert caught.value.code == "unsupported-tensors"
        assert f"but `{name}` (" in caught.value.message
        assert "`step-1.safetensors` and `step-2.safetensors`" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_masks_of_pruned_weights_that_differ_are_refused_and_equal_ones_are_not(tmp_path: Path) -> None:
    for folder, seeds in (("same", (0, 0)), ("other", (0, 1))):
        (tmp_path / folder).mkdir()
        for number, seed in enumerate(seeds, start=1):
            layer = torch.nn.Linear(8, 4)
            torch.manual_seed(seed)
            prune.random_unstructured(layer, "weight", 0.5)
            torch.save(layer.state_dict(), tmp_path / folder / f"epoch-{number}.pt")
    mask = torch.load(tmp_path / "same" / "epoch-1.pt")["weight_mask"]
    output = combine_checkpoints(tmp_path / "same", output=tmp_path / "out")
    assert torch.equal(load_file(output / "model.safetensors")["weight_mask"], mask)
    with pytest.raises(CheckpointError, match=r"`weight_mask` .* differs between `epoch-1.pt` and `epoch-2.pt`"):
        combine_checkpoints(tmp_path / "other", output=tmp_path / "none")


@pytest.mark.parametrize(("make", "name"), CODES.values(), ids=CODES)
def test_one_checkpoint_alone_may_be_quantised(tmp_path: Path, make: Make, name: str) -> None:
    """It comes out as it is: nothing is averaged."""
    output = combine_checkpoints(saved(tmp_path / "in", make), output=tmp_path / "out", weights=[1.0, 0.0])
    model = load_file(output / "model.safetensors")
    assert all(same_bits(model[key], tensor) for key, tensor in make(1).items())


COUNTERS: dict[str, Callable[[int], Tensor]] = {
    "bn.num_batches_tracked": lambda i: torch.tensor(i),
    "n_averaged": lambda i: torch.tensor(i),
    "steps": lambda i: torch.tensor([i], dtype=torch.int32),
    "queue_ptr": lambda i: torch.tensor([i]),
    "embeddings.position_ids": lambda i: torch.arange(4)[None] + i,
    "embeddings.token_type_ids": lambda i: torch.full((1, 4), i),
    "tokens_per_expert": lambda i: torch.arange(8) * i,
    "confusion.tp": lambda i: torch.tensor([i, 2 * i]),
    "attn.mask": lambda i: torch.tensor([i == 1, True]),
    "pruned": lambda i: torch.tensor([[i == 1, True]]),
    "attn.causal_mask": lambda i: torch.full((2, 2), i, dtype=torch.uint8),
    "rng_state": lambda i: ints(i, 64, dtype=torch.uint8),
    "flow.initialized": lambda i: torch.tensor(i, dtype=torch.uint8),
    "fake_quant_enabled": lambda i: torch.tensor([i], dtype=torch.uint8),
    "layer._extra_state": lambda i: ints(i, 16, dtype=torch.uint8),
}


@pytest.mark.parametrize(("name", "make"), COUNTERS.items(), ids=COUNTERS)
def test_counters_and_masks_that_differ_are_the_last_checkpoints(
    tmp_path: Path, name: str, make: Callable[[int], Tensor]
) -> None:
    def state(i: int) -> dict[str, Tensor]:
        return {name: make(i), "w": torch.full((2,), float(i))}

    folder = saved(tmp_path / "in", state)
    check(discover(folder), ignore)
    model = load_file(combine_checkpoints(folder, output=tmp_path / "out") / "model.safetensors")
    assert torch.equal(model[name], make(2))
    assert model["w"].tolist() == [1.5, 1.5]


CONSTANTS: dict[str, Tensor] = {
    "relative_position_index": ints(0, 8, 8, dtype=torch.int64),
    "attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
    "fc.qweight": ints(0, 2, 8, dtype=torch.int32),
    "edge_index": ints(0, 2, 9, dtype=torch.int32),
}


@pytest.mark.parametrize(("name", "constant"), CONSTANTS.items(), ids=CONSTANTS)
def test_integers_that_are_the_same_everywhere_may_be_anything(tmp_path: Path, name: str, constant: Tensor) -> None:
    folder = saved(tmp_path / "in", lambda i: {name: constant, "fc.scale": floats(i, 2)})
    check(discover(folder), ignore)
    model = load_file(combine_checkpoints(folder, output=tmp_path / "out") / "model.safetensors")
    assert torch.equal(model[name], constant)
    assert torch.equal(model["fc.scale"], ((floats(1, 2).double() + floats(2, 2).double()) / 2).float())


@pytest.mark.parametrize("scale", [None, 0.5])
def test_float8_weights_of_one_scale_are_averaged(tmp_path: Path, scale: float | None) -> None:
    def state(i: int) -> dict[str, Any]:
        more = {} if scale is None else {"fc.weight_scale": torch.tensor(scale)}
        return {"fc.weight": torch.full((4,), float(i)).to(torch.float8_e4m3fn), **more}

    model = load_file(combine_checkpoints(saved(tmp_path / "in", state), output=tmp_path / "out") / "model.safetensors")
    assert model["fc.weight"].float().tolist() == [1.5] * 4


def test_a_checkpoint_of_weight_zero_may_have_other_codes(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, codes in enumerate((5, 7, 7), start=1):
        save_file(
            {"w": torch.full((4,), codes, dtype=torch.int8), "scale": torch.tensor(float(number))},
            folder / f"{number}.safetensors",
        )
    model = load_file(
        combine_checkpoints(folder, output=tmp_path / "out", weights=[0.0, 0.5, 0.5]) / "model.safetensors"
    )
    assert model["w"].tolist() == [7] * 4
    assert float(model["scale"]) == 2.5

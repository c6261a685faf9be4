"""Megatron-core: `dist_checkpointing` in `torch_dist` format, a GPT of tensor parallelism 2 (`iter_0000002`)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from common import State, main
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer import TransformerConfig
from ranks import on_ranks
from safetensors.torch import load_file

STEPS = (2, 4, 6, 8)


def net(parallel: int) -> GPTModel:
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=parallel)
    config = TransformerConfig(
        num_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        use_cpu_initialization=True,
        tensor_model_parallel_size=parallel,
        pipeline_dtype=torch.float32,
    )
    return GPTModel(config, get_gpt_layer_local_spec(), vocab_size=32, max_sequence_length=16)


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Megatron's saving code asks for a GPU to wait for and to send a flag over, and needs none."""
    with (
        mock.patch("torch.cuda.current_device", return_value="cpu"),
        mock.patch("torch.cuda.synchronize"),
    ):
        yield


def train(folder: Path) -> None:
    """Steps without a forward pass, which needs a GPU; all that is saved is what Megatron saves."""
    model = net(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(1, 9):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        if step in STEPS:
            save(model, folder, step)
    parallel_state.destroy_model_parallel()


def save(model: GPTModel, folder: Path, step: int) -> None:
    """As Megatron-LM's `save_checkpoint` (megatron/training/checkpointing.py) does with `--ckpt-format torch_dist`."""
    home = folder / f"iter_{step:07d}"
    if dist.get_rank() == 0:
        home.mkdir(parents=True)
    dist.barrier()
    state: dict[str, Any] = {
        "model": model.sharded_state_dict(),
        "iteration": step,
        "checkpoint_version": 3.0,
        "args": argparse.Namespace(num_layers=2, params_dtype=torch.float32),
    }
    with on_the_cpu():
        dist_checkpointing.save(state, str(home))
    if dist.get_rank() == 0:
        (folder / "latest_checkpointed_iteration.txt").write_text(str(step))


def write(folder: Path) -> None:
    on_ranks(train, folder)


def plain_tensors(folder: Path, out: Path) -> None:
    parallel_state.initialize_model_parallel()
    for step in STEPS:
        with on_the_cpu():
            loaded = dist_checkpointing.load_plain_tensors(str(folder / f"iter_{step:07d}"))
        torch.save(
            {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}, out / f"{step}.pt"
        )
    parallel_state.destroy_model_parallel()


def states(folder: Path) -> list[State]:
    out = folder.parent / f"{folder.name}-loaded"
    out.mkdir(exist_ok=True)
    on_ranks(plain_tensors, folder, out, world=1)
    return [torch.load(out / f"{step}.pt") for step in STEPS]


def use(folder: Path, result: Path) -> None:
    # The arguments and counters of the last checkpoint.
    assert (result / "common.pt").read_bytes() == (folder / "iter_0000008" / "common.pt").read_bytes()
    on_ranks(load_the_result, folder.parent / "mean.safetensors", result, world=1)


def load_the_result(mean: Path, result: Path) -> None:
    """Into a model of tensor parallelism 1."""
    model = net(1)
    with on_the_cpu():
        loaded = dist_checkpointing.load({"model": model.sharded_state_dict()}, str(result))
    model.load_state_dict(loaded["model"])
    wanted = load_file(mean)
    for name in ("decoder.final_layernorm.weight", "embedding.word_embeddings.weight", "output_layer.weight"):
        assert torch.equal(model.state_dict()[name], wanted[name]), name
    for layer in range(2):
        name = "self_attention.linear_qkv.weight"
        stacked = wanted[f"decoder.layers.{name}"]
        assert torch.equal(model.state_dict()[f"decoder.layers.{layer}.{name}"], stacked[layer]), name
    parallel_state.destroy_model_parallel()


if __name__ == "__main__":
    main(write, states, use)

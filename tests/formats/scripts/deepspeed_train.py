"""DeepSpeed: `save_checkpoint` under ZeRO on two ranks."""

from __future__ import annotations

import os
from pathlib import Path

import deepspeed
import torch
from common import State, loads, main, result_of
from deepspeed.utils.zero_to_fp32 import (
    convert_zero_checkpoint_to_fp32_state_dict,
    get_fp32_state_dict_from_zero_checkpoint,
)
from ranks import on_ranks
from torch import nn

STAGE = int(os.environ.get("STAGE", "2"))
CONVERT = os.environ.get("CONVERT") == "1"
STEPS = (2, 4, 6, 8)


def net() -> nn.Module:
    return nn.Sequential(nn.Embedding(16, 6), nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 16))


def train(folder: Path) -> None:
    torch.manual_seed(0)
    config = {
        "train_micro_batch_size_per_gpu": 4,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
        "zero_optimization": {"stage": STAGE},
        "bf16": {"enabled": True},
        "zero_force_ds_cpu_optimizer": False,
    }
    engine, *_ = deepspeed.initialize(model=net(), config=config, dist_init_required=False)
    for step in range(1, 9):
        tokens = torch.randint(0, 16, (4, 3))
        engine.backward(nn.functional.cross_entropy(engine(tokens).flatten(0, 1).float(), tokens.flatten()))
        engine.step()
        if step in STEPS:
            engine.save_checkpoint(str(folder))


def write(folder: Path) -> None:
    on_ranks(train, folder)
    if CONVERT:
        for step in STEPS:
            whole = folder / "whole" / f"step-{step}"
            convert_zero_checkpoint_to_fp32_state_dict(str(folder), str(whole), tag=f"global_step{step}")


def states(folder: Path) -> list[State]:
    if CONVERT:
        return [get_fp32_state_dict_from_zero_checkpoint(str(folder), f"global_step{step}") for step in STEPS]
    # What `engine.load_checkpoint(load_module_only=True)` loads.
    files = [folder / f"global_step{step}" / "mp_rank_00_model_states.pt" for step in STEPS]
    return [torch.load(file, weights_only=False)["module"] for file in files]


def use(folder: Path, result: Path) -> None:
    loads(net().to(next(iter(result_of(result).values())).dtype), result)


if __name__ == "__main__":
    main(write, states, use)

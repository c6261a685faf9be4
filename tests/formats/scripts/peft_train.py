"""PEFT: a sweep of LoRA adapters of one base, of one rank or of several."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from common import State, main, mean
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

RANKS = [int(rank) for rank in os.environ.get("RANKS", "4,4,4,4").split(",")]
ERROR = 1e-6
"""Of float32 factors."""
CONFIG = {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}


def base(folder: Path) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(folder.parent / f"{folder.name}-base")


def write(folder: Path) -> None:
    GPT2LMHeadModel(GPT2Config(**CONFIG, bos_token_id=0, eos_token_id=0)).save_pretrained(
        folder.parent / f"{folder.name}-base"
    )
    for run, rank in enumerate(RANKS):
        torch.manual_seed(run)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["c_attn"], task_type="CAUSAL_LM")
        model = get_peft_model(base(folder), config)
        optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
        for _ in range(3):
            tokens = torch.randint(0, 32, (4, 8))
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder / f"run-{run}")


def merged(folder: Path, adapter: Path) -> dict[str, Tensor]:
    model = PeftModel.from_pretrained(base(folder), adapter).merge_and_unload()
    return {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}


def states(folder: Path) -> list[State]:
    return [merged(folder, folder / f"run-{run}") for run in range(len(RANKS))]


def use(folder: Path, result: Path) -> None:
    """The averaged adapter changes the base by the mean of what each adapter changes it by."""
    wanted = mean(states(folder))
    for name, value in merged(folder, result).items():
        torch.testing.assert_close(value, wanted[name], rtol=0, atol=ERROR)


if __name__ == "__main__":
    main(write, states, use)

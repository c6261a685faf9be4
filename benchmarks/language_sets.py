"""Checkpoint sets of language models: a small GPT-2 on the bytes of Python's documentation.

The function fills an empty folder: checkpoints/, val.safetensors and test.safetensors.
"""

from __future__ import annotations

from pathlib import Path

import torch
from causal_lm import window_losses
from safetensors.torch import save_file
from sources import python_documents
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

CONTEXT, BATCH_SIZE = 128, 32
STEPS, WARMUP_STEPS, LEARNING_RATE = 500, 30, 3e-3
NUM_CHECKPOINTS, STEPS_BETWEEN = 12, 20
"""The last part of training."""
HELD_OUT = 0.1
"""The share of the documents that is set aside for validation, and the same again to test."""
NUM_WINDOWS = 1_024
"""Of validation, and of test."""


def gpt2_docs(folder: Path, seed: int) -> None:
    """AdamW with a short warm-up and then a constant rate; every 20 steps of the last 240 leave a checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    train, val, test = _texts(generator)
    save_file({"tokens": _windows(val, NUM_WINDOWS, generator)}, folder / "val.safetensors")
    save_file({"tokens": _windows(test, NUM_WINDOWS, generator)}, folder / "test.safetensors")
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(byte_gpt2(positions=CONTEXT, width=128, layers=4))  # 842,496 parameters
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    model.config.to_json_file(checkpoints / "config.json", use_diff=False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    first = STEPS - NUM_CHECKPOINTS * STEPS_BETWEEN
    for step in range(1, STEPS + 1):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, step / WARMUP_STEPS)
        loss = window_losses(model, _windows(train, BATCH_SIZE, generator).to(torch.int64)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step > first and (step - first) % STEPS_BETWEEN == 0:
            # The head is tied to the embedding: it is stored once, as transformers does.
            state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
            save_file(state, checkpoints / f"step-{step}.safetensors", metadata={"format": "pt"})


def byte_gpt2(*, positions: int, width: int, layers: int) -> GPT2Config:
    """The vocabulary is the 256 bytes. No dropout: one short pass over a text cannot overfit."""
    return GPT2Config(
        architectures=["GPT2LMHeadModel"],
        vocab_size=256,
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )


def _texts(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 [length] each, of whole documents: training, validation and test share none."""
    documents = python_documents()
    order = torch.randperm(len(documents), generator=generator).tolist()
    cut = round(HELD_OUT * len(order))

    def joined(part: list[int]) -> Tensor:
        return torch.frombuffer(bytearray(b"".join(documents[index] for index in part)), dtype=torch.uint8)

    return joined(order[2 * cut :]), joined(order[:cut]), joined(order[cut : 2 * cut])


def _windows(text: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """uint8 [count, CONTEXT + 1] from random places."""
    starts = torch.randint(len(text) - CONTEXT, (count,), generator=generator)
    return text[starts[:, None] + torch.arange(CONTEXT + 1)]

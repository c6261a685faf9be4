"""LoRA adapters for tests, made by PEFT itself."""

from __future__ import annotations

import functools
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

VOCABULARY = 48
OPTIONS = {"block_size": 16, "batch_size": 8}


@functools.cache
def _saved_base() -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = Path(tempfile.mkdtemp(prefix="ladle-lora-base-"))
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=VOCABULARY, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def make_base(folder: Path) -> Path:
    """A GPT-2 of two layers."""
    shutil.copytree(_saved_base(), folder)
    return folder


def load_base(folder: Path) -> Any:
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder)


def make_adapter(
    folder: Path,
    model: nn.Module,
    seed: int,
    *,
    size: float = 0.2,
    change: Callable[[Any], None] | None = None,
    safe_serialization: bool = True,
    **config: Any,
) -> Any:
    """Every trainable number is random, so that no factor is zero as when PEFT begins."""
    from peft import LoraConfig, get_peft_model

    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn", "c_proj"], **config}
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted: Any = get_peft_model(model, LoraConfig(**settings))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.add_(size * torch.randn_like(parameter))
    if change is not None:
        change(adapted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(folder, safe_serialization=safe_serialization)
    return adapted


def make_sweep(folder: Path, configs: Mapping[str, Mapping[str, Any]], **shared: Any) -> Path:
    """`folder/base`, and `folder/sweep/NAME` for each config."""
    base = make_base(folder / "base")
    for seed, (name, config) in enumerate(configs.items(), start=1):
        make_adapter(folder / "sweep" / name, load_base(base), seed, **{**shared, **config})
    return folder / "sweep"


def loaded(base: nn.Module, folder: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(base, folder).eval()


def merged(base: nn.Module, folder: Path) -> dict[str, Tensor]:
    """All weights of the base with the adapter in them, as PEFT puts it there."""
    return {name: each.double() for name, each in loaded(base, folder).merge_and_unload().state_dict().items()}


def mean_merged(make: Callable[[], nn.Module], sweep: Path) -> dict[str, Tensor]:
    """What uniform averaging in delta space comes to: the mean of the merged models."""
    states = [merged(make(), each) for each in sorted(sweep.iterdir())]
    return {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def make_tokens(path: Path, blocks: int = 24, seed: int = 0) -> Path:
    """Token ids, of which each follows from the one before more often than not."""
    generator = torch.Generator().manual_seed(seed)
    ids = [0]
    for jump in torch.rand(16 * blocks - 1, generator=generator).tolist():
        ids.append((ids[-1] * 3 + 1) % VOCABULARY if jump < 0.7 else int(jump * VOCABULARY * 7) % VOCABULARY)
    np.save(path, np.array(ids, dtype=np.uint16))
    return path


@torch.no_grad()
def loss_of(model: Any, tokens: Path) -> float:
    """Over all blocks, as the task `causal-lm` cuts them: each token is predicted from those before it in its block."""
    ids = torch.from_numpy(np.load(tokens).astype(np.int64))
    inputs, targets = ids.view(-1, 16), torch.cat([ids[1:], torch.tensor([-100])])
    logits = model(input_ids=inputs).logits.double().view(len(targets), -1)
    return float(nn.functional.cross_entropy(logits, targets))

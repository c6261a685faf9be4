"""A sweep of eight LoRA adapters of one small GPT-2, fine-tuned on Python's documentation."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import language_run
import torch
from language_run import MOST_CHARACTERS, train
from peft import LoraConfig, get_peft_model
from sources import python_documents
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is drawn at random for each adapter: learning rate, alpha, steps, dropout, initial factors and order."""

    adapters: int = 8
    rank: int = 8
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    alphas: tuple[int, ...] = (8, 16, 32)
    batch: int = 8
    steps: tuple[int, ...] = (30, 45, 60)
    dropouts: tuple[float, ...] = (0.0, 0.1)
    val_documents: int = 12
    test_documents: int = 16
    train_documents: int = 300


QUICK = Settings(adapters=3, steps=(4, 6), val_documents=2, test_documents=2, train_documents=4)


def make_sweep(folder: Path, base: Path, seed: int, settings: Settings, first: language_run.Settings) -> None:
    """Fills `folder`: val and test.jsonl, whole documents, and adapters/ trained on others."""
    documents = [page.decode()[:MOST_CHARACTERS] for page in python_documents()]
    drawn = random.Random(seed)
    drawn.shuffle(documents)
    held_out = settings.val_documents + settings.test_documents
    val, test = documents[: settings.val_documents], documents[settings.val_documents : held_out]
    for name, part in (("val", val), ("test", test)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in part) + "\n")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    tokens = language_run.tokens_of(tokenizer, documents[held_out : held_out + settings.train_documents])
    for number in range(settings.adapters):
        _make_adapter(folder / "adapters" / f"run-{number}", base, tokens, drawn, settings, first)


def _make_adapter(
    folder: Path,
    base: Path,
    tokens: torch.Tensor,
    drawn: random.Random,
    settings: Settings,
    first: language_run.Settings,
) -> None:
    own = drawn.randrange(1 << 30)
    torch.manual_seed(own)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=drawn.choice(settings.alphas),
        lora_dropout=drawn.choice(settings.dropouts),
        target_modules=["c_attn", "c_proj", "c_fc"],
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )
    model: Any = get_peft_model(GPT2LMHeadModel.from_pretrained(base), config)
    rate, steps = drawn.choice(settings.rates), drawn.choice(settings.steps)
    print(f"{folder.name}: alpha {config.lora_alpha}, rate {rate}, {steps} steps", flush=True)
    train(model, tokens, replace(first, batch=settings.batch), steps, rate, seed=own)
    model.save_pretrained(folder)

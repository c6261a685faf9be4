"""transformers' Trainer: `checkpoint-*` with the last model saved again at the top, whole or in shards."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import torch
from common import State, main, result_of, same
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

SHARD_SIZE = os.environ.get("SHARD_SIZE")
RUNS = int(os.environ.get("RUNS", "1"))
ADAPTER = os.environ.get("ADAPTER") == "1"


def train(folder: Path, seed: int) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    if SHARD_SIZE:
        model.save_pretrained = functools.partial(model.save_pretrained, max_shard_size=SHARD_SIZE)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 32, (16, 8))]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=8,
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        load_best_model_at_end=False,
        metric_for_best_model="eval_loss",
        use_cpu=True,
        report_to="none",
        seed=seed,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    trainer.save_model()


def runs(folder: Path) -> list[Path]:
    return [folder] if RUNS == 1 else [folder / f"run-{run}" for run in range(RUNS)]


def write(folder: Path) -> None:
    for seed, run in enumerate(runs(folder)):
        train(run, seed)


def states(folder: Path) -> list[State]:
    # GPT-2 ties its head to its embedding, and the files hold the embedding alone.
    return [
        {
            name: value
            for name, value in AutoModelForCausalLM.from_pretrained(run / f"checkpoint-{step}").state_dict().items()
            if name != "lm_head.weight"
        }
        for run in runs(folder)
        for step in (2, 4, 6, 8)
    ]


def use(folder: Path, result: Path) -> None:
    same(AutoModelForCausalLM.from_pretrained(result).state_dict(), result_of(result))


if __name__ == "__main__":
    main(write, states, use)

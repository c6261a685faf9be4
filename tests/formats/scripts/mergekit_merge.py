"""mergekit: the command of `docs/migration.md`, on two small models: `SCRIPT`, in the folder that has its file."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from mergekit.scripts.run_yaml import main
from transformers import LlamaConfig, LlamaForCausalLM


def write(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder / name)


if __name__ == "__main__":
    write(Path("models"))
    # Its model card asks the Hub about the models.
    sys.argv = ["mergekit-yaml", "linear.yaml", "merged", "--no-write-model-card"]
    main()

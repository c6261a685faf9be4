"""Small language models of transformers by their names, on the vocabulary of `gpt2_tokenizer` or `bert_tokenizer`."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints import discover
from ladle_engine.checkpoints.types import CheckpointSet
from tests.unit.tasks.text_models import TEXTS, bert_tokenizer, gpt2_tokenizer, roberta_tokenizer, saved

IDS: Mapping[str, int] = {"vocab_size": 330, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
SIZES: Mapping[str, int] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
LINES = "\n".join(TEXTS * 2) + "\n"


def causal_model(kind: str) -> Any:
    import transformers as hf

    grouped = {"num_key_value_heads": 1, **SIZES}
    makers: Mapping[str, Callable[[], Any]] = {
        "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **IDS)),
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, **IDS)),
        "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(tie_word_embeddings=True, **grouped, **IDS)),
        "gpt-neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES, **IDS)),
        "opt": lambda: hf.OPTForCausalLM(
            hf.OPTConfig(
                hidden_size=32,
                ffn_dim=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
                word_embed_proj_dim=32,
                **IDS,
            )
        ),
        "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(sliding_window=4, **grouped, **IDS)),
        "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(head_dim=16, sliding_window=4, **grouped, **IDS)),
        "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(hidden_size=32, n_layer=2, n_head=2, **IDS)),
    }
    return makers[kind]()


def causal_folder(folder: Path, kind: str = "gpt2", *, steps: int = 2) -> tuple[CheckpointSet, Any]:
    """Checkpoints as `save_pretrained` leaves them, and their tokenizer."""
    return _copied(folder, kind, steps)


def masked_folder(folder: Path, kind: str = "bert", *, steps: int = 2) -> tuple[CheckpointSet, Any]:
    return _copied(folder, f"masked {kind}", steps)


def _copied(folder: Path, kind: str, steps: int) -> tuple[CheckpointSet, Any]:
    made, tokenizer = _made(kind, steps)
    shutil.copytree(Path(made.name) / "runs", folder)
    return discover(folder), tokenizer


@functools.cache
def _made(kind: str, steps: int) -> tuple[tempfile.TemporaryDirectory[str], Any]:
    """To make and save a model takes a hundred times as long as to copy it."""
    made = tempfile.TemporaryDirectory()
    tokenizers = {"masked bert": bert_tokenizer, "masked roberta": roberta_tokenizer}
    tokenizer = tokenizers.get(kind, gpt2_tokenizer)(Path(made.name) / "tokenizer")
    saved(Path(made.name) / "runs", lambda: _model(kind), tokenizer, steps=steps)
    return made, tokenizer


def _model(kind: str) -> Any:
    import transformers as hf

    if kind == "masked bert":
        return hf.BertForMaskedLM(hf.BertConfig(**{**SIZES, "vocab_size": 200}))
    if kind == "masked roberta":
        return hf.RobertaForMaskedLM(hf.RobertaConfig(**SIZES, **IDS))
    return causal_model(kind)

"""The how-to pages with the real command and the real engine, on folders as their tools leave them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from tests.builders import make_checkpoints, make_val_set
from tests.docs.following import follow, run
from tests.docs.snippets import snippets_of

pytestmark = pytest.mark.slow


def language_model() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2))


def test_a_run_of_the_trainer_is_averaged(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "book", "very"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    torch.manual_seed(0)
    texts = [f"{('good', 'bad')[number % 2]} {('film', 'book')[number // 2 % 2]}" for number in range(64)]
    rows = [{**tokenizer(text), "labels": number % 2} for number, text in enumerate(texts)]
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    arguments = TrainingArguments(
        str(tmp_path / "runs/reviews"), max_steps=12, save_steps=3, report_to=[], use_cpu=True, disable_tqdm=True
    )
    Trainer(BertForSequenceClassification(config), arguments, train_dataset=rows, processing_class=tokenizer).train()
    lines = [f"{text},{number % 2}" for number, text in enumerate(texts)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label", *lines]))

    follow("docs/how-to/trainer-run.md", tmp_path)
    assert (tmp_path / "ladle-results/reviews-averaged/tokenizer.json").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's, of transformers
def test_a_sweep_of_adapters_is_averaged(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = language_model()
    base.save_pretrained(tmp_path / "base")
    for number, rank in enumerate((2, 4, 2)):
        torch.manual_seed(number)
        adapter = get_peft_model(
            GPT2LMHeadModel.from_pretrained(tmp_path / "base"),
            LoraConfig(
                r=rank, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True, init_lora_weights=False
            ),
        )
        adapter.save_pretrained(tmp_path / f"sweep/run-{number}")
    np.save(tmp_path / "val.npy", np.random.default_rng(0).integers(0, 64, 3000).astype(np.uint16))

    follow("docs/how-to/lora-sweep.md", tmp_path)
    assert (tmp_path / "ladle-results/sweep-averaged/adapter_config.json").exists()


def test_the_nightly_script_keeps_what_is_surely_better(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "runs/main")
    make_val_set(tmp_path / "val.npz")
    script, better = (each for each in snippets_of("docs/how-to/every-night.md") if each.language in ("bash", "python"))
    (tmp_path / "better.py").write_text(better.text)
    # Whether so few digits give a sure gain is not the page's matter: the script's own exit code says it.
    text = script.text.replace("val.npy", "val.npz").replace('report.json"', 'report.json" || test $? = 1')
    said = run(["bash", "-c", text], tmp_path, script.name)
    assert "gain" in said
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["folder"].endswith(
        "ladle-results/" + next((tmp_path / "ladle-results").glob("nightly-*")).name
    )

"""A BERT, trained on words that the collator of transformers hides, through every door."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ladle_engine.checkpoints import discover
from ladle_engine.tasks.examples import split
from ladle_engine.tasks.masked_lm import MaskedLm
from tests.tasks.doors import Doors
from tests.tasks.test_causal_lm import lines, uniform_of
from tests.unit.tasks.language_models import SIZES
from tests.unit.tasks.text_models import bert_tokenizer

OPTIONS = {"documents": "line", "batch_size": 5}


def make_folder(folder: Path, texts: list[str]) -> None:
    import transformers

    torch.manual_seed(0)
    tokenizer = bert_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    model = transformers.BertForMaskedLM(transformers.BertConfig(**{**SIZES, "vocab_size": len(tokenizer)}))
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, seed=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(1, 5):
        for start in range(0, len(texts), 8):
            loss = model(**collate([tokenizer(text) for text in texts[start : start + 8]])).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        model.save_pretrained(folder / f"checkpoint-{epoch}")
        tokenizer.save_pretrained(folder / f"checkpoint-{epoch}")


def test_a_bert_loads_back_and_scores_what_the_report_says(doors: Doors) -> None:
    from transformers import AutoModelForMaskedLM

    ckpt_dir, val_set = doors.data / "bert", doors.data / "bert-val.txt"
    make_folder(ckpt_dir, lines(80, seed=1))
    val_set.write_text("\n".join(lines(100, seed=2)) + "\n")
    results = doors.through_all(ckpt_dir, val_set, task="masked-lm", task_options=OPTIONS)
    data = MaskedLm.from_options(OPTIONS).open_data(val_set, discover(ckpt_dir))
    _, select = split(len(data), 0.5, 0)
    batch = data.batch(select)
    hidden = batch["targets"] >= 0
    for result in results:
        model = AutoModelForMaskedLM.from_pretrained(result.folder).eval()
        with torch.no_grad():
            answer = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["targets"]
            )
        right = answer.logits.argmax(dim=-1)[hidden] == batch["targets"][hidden]
        assert result.winner["loss"] == pytest.approx(float(answer.loss), abs=1e-4)
        assert result.winner["accuracy"] == pytest.approx(float(right.float().mean()), abs=1e-4)
        assert uniform_of(result) == pytest.approx(uniform_of(results[0]), rel=1e-6)

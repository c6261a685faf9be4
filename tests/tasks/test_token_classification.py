"""A BERT that finds names, trained by a plain loop and saved by transformers, through every door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ladle_engine import average
from ladle_engine.tasks.examples import split
from ladle_engine.tasks.token_classification import TokenClassification
from tests.tasks import text_data
from tests.tasks.doors import Doors
from tests.unit.tasks.text_models import bert_tokenizer, rows_file

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def make_folder(folder: Path) -> None:
    from transformers import BertConfig, BertForTokenClassification

    rows = text_data.reports(256, seed=1)
    tokenizer = bert_tokenizer(folder.parent / f"{folder.name}-tokenizer", [" ".join(row["tokens"]) for row in rows])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=64, id2label=dict(enumerate(TAGS)), label2id={tag: n for n, tag in enumerate(TAGS)},
    )  # fmt: skip
    batches = [rows[each : each + 8] for each in range(0, 256, 8)]
    text_data.train(
        folder, BertForTokenClassification(config), tokenizer, batches,
        lambda model, batch: model(**encoded(tokenizer, batch)).loss,
    )  # fmt: skip


def encoded(tokenizer: Any, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """As `run_ner.py` does it."""
    made = tokenizer([row["tokens"] for row in rows], is_split_into_words=True, padding=True, return_tensors="pt")
    labels = torch.full_like(made["input_ids"], -100)
    for number, row in enumerate(rows):
        before = None
        for place, word in enumerate(made.word_ids(number)):
            if word is not None and word != before:
                labels[number, place] = TAGS.index(row["ner_tags"][word])
            before = word
    return {**made, "labels": labels}


@torch.no_grad()
def score_alone(folder: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of the result in transformers, and by seqeval, each sentence on its own."""
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    true, predicted, losses = [], [], []
    for row in rows:
        batch = encoded(tokenizer, [row])
        labels, logits = batch["labels"][0], model(**batch).logits[0]
        words = labels != -100
        true.append([TAGS[tag] for tag in labels[words].tolist()])
        predicted.append([TAGS[tag] for tag in logits.argmax(dim=1)[words].tolist()])
        losses.append(F.cross_entropy(logits[words], labels[words], reduction="none"))
    return {
        "span-f1": f1_score(true, predicted),
        "span-precision": precision_score(true, predicted),
        "span-recall": recall_score(true, predicted),
        "macro-span-f1": f1_score(true, predicted, average="macro"),
        "accuracy": accuracy_score(true, predicted),
        "loss": float(torch.cat(losses).mean()),
    }


def as_conll(rows: list[dict[str, Any]]) -> str:
    sentences = ["".join(f"{word} {tag}\n" for word, tag in zip(*row.values(), strict=True)) for row in rows]
    return "\n".join(["-DOCSTART- O\n", *sentences])


def test_a_bert_loads_back_and_scores_what_the_report_says(doors: Doors) -> None:
    ckpt_dir, val_set = doors.data / "ner", doors.data / "reports.conll"
    make_folder(ckpt_dir)
    rows = text_data.reports(160, seed=2)
    val_set.write_text(as_conll(rows))
    results = doors.through_all(ckpt_dir, val_set, task="token-classification")
    _, select = split(len(rows), 0.5, 0)
    for result in results:
        found = score_alone(result.folder, [rows[each] for each in select.tolist()])
        assert result.winner == pytest.approx(found, abs=1e-4)
        # The library has one rank, the service two.
        assert text_data.uniform_of(result) == pytest.approx(text_data.uniform_of(results[0]), abs=1e-6)
        assert found["span-f1"] > 0.6, "a model that has learnt something"


def test_a_metric_is_the_same_at_any_batch_size(tmp_path: Path) -> None:
    make_folder(tmp_path / "run")
    val_set = rows_file(tmp_path / "val.jsonl", text_data.reports(90, seed=3))
    scores = []
    for batch_size in (1, 3, 8):
        outcome = average(
            tmp_path / "run", val_set, output=tmp_path / f"out-{batch_size}", task=TokenClassification,
            method="uniform", task_options={"batch_size": batch_size},
        )  # fmt: skip
        scores.append({score.method: score.select for score in outcome.candidates})
    for other in scores[1:]:
        for method, expected in scores[0].items():
            assert other[method] == pytest.approx(expected, abs=1e-6)

"""A BERT, trained on reviews by a plain loop and saved by transformers, through every door."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ladle_engine import average
from ladle_engine.tasks.examples import split
from ladle_engine.tasks.text_classification import TextClassification
from tests.tasks import text_data
from tests.tasks.doors import Doors
from tests.unit.tasks.text_models import bert_classifier, bert_tokenizer, rows_file

NAMES = ("bad", "mixed", "good")


def make_folder(folder: Path) -> None:
    rows = text_data.reviews(256, seed=1)
    tokenizer = bert_tokenizer(folder.parent / f"{folder.name}-tokenizer", [row["text"] for row in rows])
    torch.manual_seed(0)
    model = bert_classifier(
        num_labels=3, id2label=dict(enumerate(NAMES)), hidden_size=32, initializer_range=0.2, hidden_dropout_prob=0.0
    )

    def loss_of(model: Any, rows: list[dict[str, Any]]) -> Tensor:
        encoded = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
        loss: Tensor = model(**encoded, labels=torch.tensor([row["label"] for row in rows])).loss
        return loss

    text_data.train(folder, model, tokenizer, [rows[each : each + 16] for each in range(0, 256, 16)], loss_of)


@torch.no_grad()
def score_alone(folder: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of the result in transformers, and by scikit-learn, each text on its own."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    logits = torch.cat([model(**tokenizer(row["text"], return_tensors="pt")).logits for row in rows])
    labels, predicted = torch.tensor([row["label"] for row in rows]), logits.argmax(dim=1)
    return {
        "accuracy": accuracy_score(labels, predicted),
        "macro-f1": f1_score(labels, predicted, average="macro"),
        "mcc": matthews_corrcoef(labels, predicted),
        "loss": float(F.cross_entropy(logits, labels)),
    }


def test_a_bert_loads_back_and_scores_what_the_report_says(doors: Doors) -> None:
    ckpt_dir, val_set = doors.data / "bert", doors.data / "reviews.csv"
    make_folder(ckpt_dir)
    rows = text_data.reviews(200, seed=2)
    with val_set.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        writer.writerows([number, row["text"], NAMES[row["label"]]] for number, row in enumerate(rows))
    results = doors.through_all(ckpt_dir, val_set, task="text-classification", metric="macro-f1")
    _, select = split(len(rows), 0.5, 0)
    for result in results:
        found = score_alone(result.folder, [rows[each] for each in select.tolist()])
        assert result.winner == pytest.approx(found, abs=1e-4)
        # The library has one rank, the service two.
        assert text_data.uniform_of(result) == pytest.approx(text_data.uniform_of(results[0]), abs=1e-6)
        assert found["macro-f1"] > 0.6, "a model that has learnt something"


def test_a_metric_is_the_same_at_any_batch_size(tmp_path: Path) -> None:
    make_folder(tmp_path / "run")
    val_set = rows_file(tmp_path / "val.jsonl", text_data.reviews(90, seed=3))
    scores = []
    for batch_size in (1, 3, 8):
        outcome = average(
            tmp_path / "run", val_set, output=tmp_path / f"out-{batch_size}", task=TextClassification,
            method="uniform", task_options={"batch_size": batch_size},
        )  # fmt: skip
        scores.append({score.method: score.select for score in outcome.candidates})
    for other in scores[1:]:
        for method, expected in scores[0].items():
            assert other[method] == pytest.approx(expected, abs=1e-6)

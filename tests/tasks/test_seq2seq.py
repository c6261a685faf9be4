"""Marian models that learn a toy language, saved by transformers, through every door; judged by loss and by BLEU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq

from ladle_engine.tasks.examples import split
from tests.tasks.doors import Doors
from tests.unit.tasks import seq2seq_models as toys

sacrebleu = pytest.importorskip("sacrebleu")
rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")

COUNT = 80
ROWS = toys.pairs(COUNT, seed=5)
SELECTED = [ROWS[number] for number in split(COUNT, 0.5, 0)[1].tolist()]


@pytest.fixture(scope="module")
def marian(doors: Doors) -> Path:
    folder = doors.data / "marian"
    tokenizer = toys.marian_tokenizer(doors.data / "made")
    torch.manual_seed(0)
    model = toys.marian(len(tokenizer))
    toys.train(model, tokenizer, (110, 130, 150, 170), lambda step: toys.save(folder, step, model, tokenizer))
    return folder


def loaded(folder: Path) -> tuple[Any, Any]:
    return AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


def loss_in_the_tool(folder: Path) -> float:
    """Per token, by the collator with which people train."""
    tokenizer, model = loaded(folder)
    rows = [tokenizer(source, text_target=target) for source, target in SELECTED]
    batch = DataCollatorForSeq2Seq(tokenizer, model=model)([dict(row) for row in rows])
    with torch.no_grad():
        return float(model(**batch).loss)


def texts_in_the_tool(folder: Path, **options: Any) -> list[str]:
    tokenizer, model = loaded(folder)
    batch = tokenizer([source for source, _ in SELECTED], padding=True, return_tensors="pt")
    found: list[str] = tokenizer.batch_decode(model.generate(**batch, **options), skip_special_tokens=True)
    return found


def test_a_marian_loads_back_and_has_the_loss_of_the_report(doors: Doors, marian: Path) -> None:
    val_set = toys.write_jsonl(doors.data / "marian.jsonl", ROWS, ("src", "tgt"))
    for result in doors.through_all(marian, val_set, task="seq2seq"):
        assert result.winner["loss"] == pytest.approx(loss_in_the_tool(result.folder), abs=1e-4)
        assert result.winner.keys() == {"loss", "perplexity"}


def test_a_marian_loads_back_and_translates_as_the_report_says(doors: Doors, marian: Path) -> None:
    """The same job from parallel files, in another folder, because a job's results are kept by its checkpoints'."""
    copied = doors.data / "marian-bleu"
    shutil.copytree(marian, copied)
    files = doors.data / "parallel"
    files.mkdir()
    for number, language in enumerate(("dig", "name")):
        (files / f"val.{language}").write_text("".join(row[number] + "\n" for row in ROWS))
    options = {"num_beams": 2, "max_new_tokens": 12, "batch_size": 7}
    results = doors.through_all(copied, files, task="seq2seq", metric="bleu", task_options=options)
    references = [[target for _, target in SELECTED]]
    for result in results:
        texts = texts_in_the_tool(result.folder, num_beams=2, max_new_tokens=12)
        expected = {
            "bleu": sacrebleu.BLEU().corpus_score(texts, references).score,
            "chrf": sacrebleu.CHRF().corpus_score(texts, references).score,
            "rougel": _rouge(texts, references[0]),
            "loss": loss_in_the_tool(result.folder),
        }
        found = {name: result.winner[name] for name in expected}
        assert found == pytest.approx(expected, abs=1e-4)
        assert found["bleu"] > 5, "a metric that means something here"


def _rouge(texts: list[str], references: list[str]) -> float:
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    scores = [scorer.score(each, text)["rougeL"].fmeasure for text, each in zip(texts, references, strict=True)]
    return sum(scores) / len(scores)

"""A GPT-2, trained on lines of text by a plain loop and saved by transformers, through every door."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ladle_engine import average
from ladle_engine.checkpoints import discover
from ladle_engine.tasks.causal_lm import CausalLm
from ladle_engine.tasks.examples import split
from tests.tasks.doors import SMALL, Doors, Result
from tests.unit.tasks.language_models import causal_model
from tests.unit.tasks.text_models import TEXTS, gpt2_tokenizer

OPTIONS: dict[str, Any] = {"documents": "line", "block_size": 64, "batch_size": 3}


def lines(count: int, seed: int) -> list[str]:
    """Sentences of the words that the tokenizer was trained on."""
    generator = torch.Generator().manual_seed(seed)
    words = " ".join(TEXTS).split()
    lengths = torch.randint(3, 9, (count,), generator=generator).tolist()
    return [
        " ".join(words[place] for place in torch.randint(len(words), (length,), generator=generator).tolist())
        for length in lengths
    ]


def make_folder(folder: Path, texts: list[str], *, epochs: int = 4) -> None:
    torch.manual_seed(0)
    tokenizer = gpt2_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    model = causal_model("gpt2")
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(1, epochs + 1):
        for text in texts:
            ids = tokenizer(text, return_tensors="pt").input_ids
            loss = model(ids, labels=ids).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        model.save_pretrained(folder / f"checkpoint-{epoch}")
        tokenizer.save_pretrained(folder / f"checkpoint-{epoch}")


def documents_of(batch: Any) -> list[Tensor]:
    """The token ids of each document in packed blocks."""
    found = []
    for ids, targets, positions in zip(batch["input_ids"], batch["targets"], batch["positions"], strict=True):
        starts = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
        for start, end in itertools.pairwise(starts):
            real = targets[start:end] >= 0
            found.append(torch.cat([ids[start : start + 1], targets[start:end][real]]))
    return found


@torch.no_grad()
def score_alone(folder: Path, documents: list[Tensor]) -> tuple[float, float]:
    """Loss and token accuracy of the result in transformers, each document on its own."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    nll, correct, count = 0.0, 0, 0
    for ids in documents:
        answer = model(ids[None], labels=ids[None])
        nll += float(answer.loss) * (len(ids) - 1)
        correct += int((answer.logits[0, :-1].argmax(dim=-1) == ids[1:]).sum())
        count += len(ids) - 1
    return nll / count, correct / count


def uniform_of(result: Result) -> dict[str, float]:
    """The scores of a candidate whose coefficients no training made."""
    found: dict[str, float] = next(row["select"] for row in result.report["candidates"] if row["method"] == "uniform")
    return found


def test_a_gpt2_loads_back_and_scores_what_the_report_says(doors: Doors) -> None:
    ckpt_dir, val_set = doors.data / "gpt2", doors.data / "gpt2-val.txt"
    make_folder(ckpt_dir, lines(60, seed=1))
    val_set.write_text("\n".join(lines(120, seed=2)) + "\n")
    results = doors.through_all(ckpt_dir, val_set, task="causal-lm", task_options=OPTIONS)
    data = CausalLm.from_options(OPTIONS).open_data(val_set, discover(ckpt_dir))
    _, select = split(len(data), 0.5, 0)
    documents = documents_of(data.batch(select))
    for result in results:
        loss, accuracy = score_alone(result.folder, documents)
        assert result.winner["loss"] == pytest.approx(loss, abs=1e-4)
        assert result.winner["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
        assert result.winner["token_accuracy"] == pytest.approx(accuracy, abs=1e-4)
        # The library has one rank, the service two.
        assert uniform_of(result) == pytest.approx(uniform_of(results[0]), rel=1e-6)


def test_a_metric_is_the_same_at_any_batch_size(tmp_path: Path) -> None:
    make_folder(tmp_path / "runs", lines(30, seed=1), epochs=2)
    val_set = tmp_path / "val.jsonl"
    rows = [{"prompt": text[:10], "completion": text[10:]} for text in lines(40, seed=3)]
    val_set.write_text("\n".join(map(json.dumps, rows)))
    scores = []
    for batch_size in (1, 3, 8):
        output = tmp_path / f"out-{batch_size}"
        average(
            tmp_path / "runs", val_set, output=output, metric="perplexity", method="auto", method_options=SMALL,
            task_options={"batch_size": batch_size},
        )  # fmt: skip
        report = json.loads((output / "report.json").read_text())
        scores.append(uniform_of(Result(folder=output, report=report)))
    assert scores[1] == pytest.approx(scores[0], rel=1e-6)
    assert scores[2] == pytest.approx(scores[0], rel=1e-6)

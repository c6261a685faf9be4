"""Several ranks generate the texts that one process generates, whole models and sharded ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ladle_engine.placements.base import REPLICATED
from tests.distributed.start import run_module
from tests.tasks import seq2seq_rank
from tests.unit.tasks import seq2seq_models as toys

pytest.importorskip("sacrebleu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("seq2seq")
    tokenizer = toys.word_tokenizer()
    models = {
        "bart": lambda: toys.bart(encoder_layers=2, decoder_layers=2),
        "t5": toys.t5,
        "marian": lambda: toys.marian(len(toys.WORDS), end=toys.END, padding=toys.PAD),
    }
    for name, make in models.items():
        torch.manual_seed(0)
        model = make()
        toys.train(model, tokenizer, (110, 120), lambda step, name=name, model=model: toys.save(  # type: ignore[misc]
            made / name, step, model, tokenizer))  # fmt: skip
    # Ranks are dealt unequal numbers of batches of unequal length.
    toys.write_jsonl(made / "val.jsonl", toys.pairs(58, seed=5))
    return made


def test_ranks_find_the_scores_of_one_process(folder: Path) -> None:
    run_module("tests.tasks.seq2seq_rank", 2, str(folder))
    found = [json.loads((folder / f"2-{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1], "every rank judges the same"
    for model, _ in seq2seq_rank.JOBS:
        scores, alone = found[0][model], seq2seq_rank.run(folder, model, REPLICATED, ranks=1)
        for method in ("best", "uniform"):
            assert scores[method] == pytest.approx(alone[method], rel=1e-6), (model, method)
        assert scores["twa"]["loss"] == pytest.approx(alone["twa"]["loss"], rel=1e-4)
        assert scores["best"]["bleu"] > 1, "a metric that means something here"

"""The task `masked-lm`: hidden tokens that are the same every time, and models of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import EngineError
from ladle_engine.model.binding import bind
from ladle_engine.tasks.masked_lm import MaskedLm, MaskedLmOptions
from ladle_engine.testing import check_task
from tests.unit.tasks.language_models import LINES, causal_folder, masked_folder
from tests.unit.tasks.text_models import TEXTS

BY_LINE = {"documents": "line"}


def val_set(folder: Path, text: str = LINES) -> Path:
    (folder / "val.txt").write_text(text)
    return folder / "val.txt"


def loaded(task: MaskedLm, checkpoints: CheckpointSet) -> nn.Module:
    model = task.build_model(checkpoints)
    bind(model, checkpoints, task.stored_names(model, checkpoints)).load(checkpoints.reference)
    return model.eval()


@torch.no_grad()
def statistics(task: MaskedLm, model: nn.Module, data: Any, batch_size: int) -> dict[str, Tensor]:
    batches = [task.evaluate(model, data.batch(part)) for part in torch.arange(len(data)).split(batch_size)]
    return {name: torch.cat([batch[name] for batch in batches]).double() for name in batches[0]}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_hidden_tokens_are_scored_as_transformers_scores_them(kind: str, tmp_path: Path) -> None:
    checkpoints, _ = masked_folder(tmp_path / "runs", kind)
    task = MaskedLm(MaskedLmOptions(documents="line"))
    assert task.recognises(checkpoints)
    model: Any = loaded(task, checkpoints)
    data = task.open_data(val_set(tmp_path), checkpoints)
    assert len(data) == len(TEXTS) * 2
    values = statistics(task, model, data, 3)
    own = type(model).from_pretrained(tmp_path / "runs" / "checkpoint-20").eval()
    for index in range(len(data)):
        batch = data.batch(torch.tensor([index]))
        with torch.no_grad():
            loss = float(own(batch["input_ids"], labels=batch["targets"]).loss)
        assert float(values["nll"][index] / values["tokens"][index]) == pytest.approx(loss, rel=1e-5)
    for batch_size in (1, 8):
        again = statistics(task, model, data, batch_size)
        torch.testing.assert_close(again["nll"], values["nll"], rtol=1e-6, atol=0)
    loss = task.loss(model, data.batch(torch.arange(len(data))))
    assert float(loss.detach()) == pytest.approx(float(values["nll"].sum() / values["tokens"].sum()), rel=0.5)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_task_follows_the_rules(kind: str, tmp_path: Path) -> None:
    masked_folder(tmp_path / "runs", kind)
    check_task(MaskedLm, tmp_path / "runs", val_set(tmp_path), options=BY_LINE)


def test_what_is_hidden_depends_on_the_seed_and_the_example_alone(tmp_path: Path) -> None:
    checkpoints, _ = masked_folder(tmp_path / "runs")
    one, again, other = (
        MaskedLm(MaskedLmOptions(documents="line", mask_seed=seed)).open_data(val_set(tmp_path), checkpoints)
        for seed in (1, 1, 2)
    )
    together = one.batch(torch.arange(10))
    for index in (9, 0, 4):
        alone = again.batch(torch.tensor([index]))
        width = alone["input_ids"].shape[1]
        assert torch.equal(together["input_ids"][index, :width], alone["input_ids"][0])
        assert torch.equal(together["targets"][index, :width], alone["targets"][0])
    assert not torch.equal(together["targets"], other.batch(torch.arange(10))["targets"])


def test_shares_of_hidden_tokens_are_as_published_and_no_special_token_is_hidden(tmp_path: Path) -> None:
    checkpoints, tokenizer = masked_folder(tmp_path / "runs")
    data = MaskedLm(MaskedLmOptions(max_length=64)).open_data(val_set(tmp_path, LINES * 60), checkpoints)
    batch = data.batch(torch.arange(len(data)))
    hidden = batch["targets"] >= 0
    real = batch["attention_mask"] == 1
    assert float(hidden.sum() / real.sum()) == pytest.approx(0.15 * 62 / 64, abs=0.01)
    shown, targets = batch["input_ids"][hidden], batch["targets"][hidden]
    assert float((shown == tokenizer.mask_token_id).float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float((shown == targets).float().mean()) == pytest.approx(0.1, abs=0.02)
    assert not np.isin(targets.numpy(), tokenizer.all_special_ids).any()
    assert (batch["input_ids"][:, 0] == tokenizer.cls_token_id).all()


def test_each_example_has_something_hidden(tmp_path: Path) -> None:
    checkpoints, _ = masked_folder(tmp_path / "runs")
    data = MaskedLm(MaskedLmOptions(documents="line", mask_fraction=0.001)).open_data(val_set(tmp_path), checkpoints)
    assert ((data.batch(torch.arange(len(data)))["targets"] >= 0).sum(dim=1) >= 1).all()


def test_all_may_be_hidden(tmp_path: Path) -> None:
    checkpoints, _ = masked_folder(tmp_path / "runs")
    data = MaskedLm(MaskedLmOptions(documents="line", mask_fraction=1.0)).open_data(val_set(tmp_path), checkpoints)
    batch = data.batch(torch.tensor([0]))
    assert int((batch["targets"] >= 0).sum()) == int(batch["attention_mask"].sum()) - 2


def test_long_documents_are_cut_into_windows_and_nothing_is_lost(tmp_path: Path) -> None:
    checkpoints, tokenizer = masked_folder(tmp_path / "runs")
    task = MaskedLm(MaskedLmOptions(max_length=10, mask_fraction=1.0))
    data = task.open_data(val_set(tmp_path), checkpoints)
    batch = data.batch(torch.arange(len(data)))
    assert batch["input_ids"].shape[1] == 10
    assert batch["targets"][batch["targets"] >= 0].tolist() == tokenizer(LINES, add_special_tokens=False).input_ids
    some = MaskedLm(MaskedLmOptions(max_length=10, limit=3)).open_data(val_set(tmp_path), checkpoints)
    assert len(some) == 3


def test_token_files_are_taken_as_they_are(tmp_path: Path) -> None:
    checkpoints, tokenizer = masked_folder(tmp_path / "runs")
    ids = tokenizer(LINES).input_ids
    np.save(tmp_path / "val.npy", np.array(ids, dtype=np.uint16))
    data = MaskedLm(MaskedLmOptions(max_length=16)).open_data(tmp_path / "val.npy", checkpoints)
    batch = data.batch(torch.arange(len(data)))
    seen = torch.where(batch["targets"] >= 0, batch["targets"], batch["input_ids"])
    assert seen[batch["attention_mask"] == 1].tolist() == ids


@pytest.mark.parametrize(
    ("text", "options", "code", "says"),
    [
        ("\n \n", {}, "empty-data", "must have words"),
        (LINES, {"max_length": 2}, "invalid-task-options", "must be at least 3"),
        (LINES, {"max_length": 65}, "invalid-task-options", "at most 64"),
        (LINES, {"mask_fraction": 0}, "invalid-task-options", "must be above 0"),
        (LINES, {"mask_fraction": 1.5}, "invalid-task-options", "must be at most 1"),
        ("[SEP] [CLS]", {}, "empty-data", "Windows of special tokens alone, left out: 1"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(
    tmp_path: Path, text: str, options: dict[str, Any], code: str, says: str
) -> None:
    checkpoints, _ = masked_folder(tmp_path / "runs")
    with pytest.raises(EngineError, match=says) as raised:
        MaskedLm.from_options(options).open_data(val_set(tmp_path, text), checkpoints)
    assert raised.value.code == code


def test_rows_of_conversations_have_no_texts(tmp_path: Path) -> None:
    checkpoints, _ = masked_folder(tmp_path / "runs")
    (tmp_path / "val.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}))
    with pytest.raises(EngineError, match="must be the task's `text`"):
        MaskedLm().open_data(tmp_path / "val.jsonl", checkpoints)


def test_a_causal_model_is_refused_in_words(tmp_path: Path) -> None:
    checkpoints, _ = causal_folder(tmp_path / "runs")
    assert not MaskedLm.recognises(checkpoints)
    with pytest.raises(EngineError, match="this is a causal language model"):
        MaskedLm().build_model(checkpoints)
    with pytest.raises(EngineError, match="needs a tokenizer with a mask token") as raised:
        MaskedLm().open_data(val_set(tmp_path), checkpoints)
    assert raised.value.code == "model-mismatch"

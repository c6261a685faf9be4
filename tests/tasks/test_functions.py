"""A notebook's own functions on folders that real trainers leave: results load back in the tool and score the same."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ladle_engine import Outcome, average

QUICK: dict[str, Any] = {"method": "twa", "method_options": {"steps": 6}}


def select_split(count: int) -> list[int]:
    """As `average` cuts a set with its defaults."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[: round(count * 0.5)].tolist()


def reported(outcome: Outcome) -> dict[str, float]:
    report = json.loads((outcome.folder / "report.json").read_text())
    scores: dict[str, float] = next(row["select"] for row in report["candidates"] if row["method"] == report["winner"])
    return scores


def padded(samples: list[tuple[list[int], int]]) -> dict[str, Tensor]:
    """As a collator of transformers."""
    length = max(len(ids) for ids, _ in samples)
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in samples])
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "labels": torch.tensor([label for _, label in samples]),
    }


def test_a_model_of_transformers_without_its_task(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    numbers = random.Random(0)
    texts = [[numbers.randrange(2, 20) for _ in range(numbers.randrange(3, 12))] for _ in range(240)]
    samples = [(ids, int(7 in ids or 9 in ids)) for ids in texts]
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                   max_position_embeddings=16)
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(4):
        for batch in DataLoader(samples[:120], batch_size=20, collate_fn=padded, shuffle=True):  # type: ignore[arg-type]
            optimiser.zero_grad()
            model(**batch).loss.backward()
            optimiser.step()
        model.save_pretrained(tmp_path / "run" / f"checkpoint-{epoch}")
    val = samples[120:]
    outcome = average(
        tmp_path / "run", model=model, loss=lambda model, batch: model(**batch),
        metrics=lambda model, batch: {"accuracy": model(**batch).logits.argmax(dim=1) == batch["labels"]},
        data=DataLoader(val, batch_size=16, collate_fn=padded), output=tmp_path / "out", **QUICK,  # type: ignore[arg-type]
    )  # fmt: skip
    assert not outcome.warnings
    loaded = BertForSequenceClassification.from_pretrained(outcome.folder).eval()
    batch = padded([val[index] for index in select_split(len(val))])
    with torch.no_grad():
        logits = loaded(**batch).logits
    assert reported(outcome)["loss"] == pytest.approx(float(F.cross_entropy(logits, batch["labels"])), abs=1e-4)
    accuracy = float((logits.argmax(dim=1) == batch["labels"]).float().mean())
    assert reported(outcome)["accuracy"] == pytest.approx(accuracy, abs=1e-4)


def test_a_lightning_module_by_its_own_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lightning = pytest.importorskip("lightning")
    warnings.simplefilter("ignore")
    monkeypatch.chdir(tmp_path)

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

        def training_step(self, batch: Any, number: int) -> dict[str, Tensor]:
            loss = F.mse_loss(self.net(batch[0]), batch[1])
            self.log("train_loss", loss)
            return {"loss": loss}

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    torch.manual_seed(0)
    x = torch.randn(200, 6)
    y = torch.sin(x.sum(dim=1, keepdim=True))
    module = Module()
    saving = lightning.pytorch.callbacks.ModelCheckpoint(dirpath=tmp_path / "run", save_top_k=-1, every_n_epochs=1)
    trainer = lightning.Trainer(
        max_epochs=4, logger=False, callbacks=[saving], enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=20, shuffle=True))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    outcome = average(
        tmp_path / "run", model=module, loss=lambda model, batch: model.training_step(batch, 0),
        data=DataLoader(TensorDataset(x, y), batch_size=16), output=tmp_path / "out", **QUICK,
    )  # fmt: skip
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert outcome.num_checkpoints == 4

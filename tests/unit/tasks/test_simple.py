"""`SimpleTask`: the least that a task of one's own can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ladle_engine import TaskError, average
from ladle_engine.checkpoints import discover
from ladle_engine.tasks.base import Batch
from ladle_engine.tasks.simple import FromDataset, SimpleTask
from ladle_engine.testing import check_task
from tests.unit.engine.toy import ToyData, plain_net, write_checkpoints


class Waves(SimpleTask):
    name = "waves"
    summary = "For tests."

    def build_model(self, checkpoints: Any) -> nn.Module:
        return plain_net()

    def open_data(self, path: Path, checkpoints: Any) -> FromDataset:
        data = ToyData(40)
        return FromDataset(TensorDataset(data.x, data.y), names=("x", "y"))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch["x"]) - batch["y"]).square().mean(dim=1)


def test_three_methods_make_a_task_that_follows_the_rules(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "run", plain_net)
    check_task(Waves, tmp_path / "run", tmp_path)
    outcome = average(tmp_path / "run", tmp_path, output=tmp_path / "out", task=Waves, method="uniform")
    assert outcome.metric == "loss"
    assert Waves().batch_size == 128
    with pytest.raises(TaskError, match="`batch` must be an option of task `waves`"):
        Waves.from_options({"batch": 3})


def test_it_is_recognised_by_the_config(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "run", plain_net)
    assert not Waves.recognises(discover(tmp_path / "run"))
    (tmp_path / "run" / "config.json").write_text(json.dumps({"ladle_task": "waves"}))
    assert Waves.recognises(discover(tmp_path / "run"))


def test_batches_of_mappings_keep_their_names_and_tuples_get_them() -> None:
    data = ToyData(10)
    pairs = FromDataset(TensorDataset(data.x, data.y), names=("x", "y"))
    mappings = FromDataset([{"x": x, "y": y} for x, y in zip(data.x, data.y, strict=True)])
    indices = torch.tensor([7, 2, 2])
    for batch in (pairs.batch(indices), mappings.batch(indices)):
        assert batch.keys() == {"x", "y"}
        assert torch.equal(batch["x"], data.x[indices])
    assert len(pairs) == len(mappings) == 10
    with pytest.raises(ValueError, match="zip"):
        FromDataset(TensorDataset(data.x, data.y), names=("x",)).batch(indices)

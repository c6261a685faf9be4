"""Folders as transformers' Trainer, Lightning and accelerate leave them, written by these tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ladle_engine import combine_checkpoints, discover, inspect
from ladle_engine.checkpoints.metrics_beside import metrics_beside

pytestmark = pytest.mark.filterwarnings("ignore")


def mean(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """As Ladle rounds it: once."""
    names = states[0].keys()
    return {
        name: torch.stack([each[name].double() for each in states]).mean(0).to(states[0][name].dtype) for name in names
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Rows(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": torch.arange(index, index + 4), "labels": torch.tensor(index % 2)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the Trainer, that keep the best model."""
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    sweep = tmp_path_factory.mktemp("sweep")
    for run, rate in enumerate((0.01, 0.001)):
        torch.manual_seed(run)
        config = BertConfig(
            vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
            max_position_embeddings=8, hidden_dropout_prob=0.1 * run,
        )  # fmt: skip
        arguments = TrainingArguments(
            str(sweep / f"run-{run}"), num_train_epochs=3, per_device_train_batch_size=4, learning_rate=rate,
            save_strategy="epoch", eval_strategy="epoch", load_best_model_at_end=True, report_to=[], use_cpu=True,
            disable_tqdm=True, metric_for_best_model="eval_loss",
        )  # fmt: skip
        trainer = Trainer(BertForSequenceClassification(config), arguments, train_dataset=Rows(), eval_dataset=Rows())
        trainer.train()
        trainer.save_model()
        trainer.save_state()
        trainer.save_metrics("eval", trainer.evaluate())
    return sweep


def test_a_trainers_folder_is_its_checkpoints_with_the_model_at_its_top_once(trained: Path, tmp_path: Path) -> None:
    from transformers import BertForSequenceClassification

    run = trained / "run-0"
    found = discover(run)
    assert found.names == ("checkpoint-2", "checkpoint-4", "checkpoint-6")
    assert [each.step for each in found.checkpoints] == [2, 4, 6]
    assert found.doubt is None
    assert any("`model.safetensors` hold the same weights" in each for each in found.warnings)
    output = combine_checkpoints(run, output=tmp_path / "out")
    expected = mean([load_file(run / name / "model.safetensors") for name in found.names])
    assert same(load_file(output / "model.safetensors"), expected)
    assert same(dict(BertForSequenceClassification.from_pretrained(output).state_dict()), expected)


def test_a_sweep_of_the_trainer_is_all_checkpoints_of_all_runs(trained: Path) -> None:
    found = discover(trained)
    assert found.names == tuple(f"run-{run}/checkpoint-{step}" for run in (0, 1) for step in (2, 4, 6))
    assert found.config is not None
    assert found.home == trained / "run-1" / "checkpoint-6"
    assert any("`hidden_dropout_prob`" in each for each in found.warnings), "the configs differ"
    assert discover(trained, steps=[4]).names == ("run-0/checkpoint-4", "run-1/checkpoint-4")
    assert discover(trained / "run-*").names == found.names
    assert discover([trained / "run-1", trained / "run-0"]).names == found.names


def test_metrics_and_the_best_come_from_the_trainers_state(trained: Path) -> None:
    found = discover(trained)
    beside = metrics_beside(found.checkpoints, found.folder)
    assert all(beside.metrics[name].keys() == {"eval_loss"} for name in found.names)
    assert len({beside.metrics[name]["eval_loss"] for name in found.names}) == 6
    loss = {name: beside.metrics[name]["eval_loss"] for name in found.names}
    best = {min(found.names[:3], key=loss.__getitem__), min(found.names[3:], key=loss.__getitem__)}
    assert beside.best == best


@pytest.fixture(scope="module")
def lightning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which a training was started twice."""
    import lightning as L
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    class Module(L.LightningModule):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Linear(width, 2)

        def training_step(self, batch: Any, _: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    root = tmp_path_factory.mktemp("project")
    for seed in (0, 1):
        torch.manual_seed(seed)
        rows = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.arange(8) % 2)
        data = torch.utils.data.DataLoader(rows, batch_size=4)
        trainer = L.Trainer(
            default_root_dir=root, max_epochs=2, accelerator="cpu", logger=CSVLogger(root), enable_progress_bar=False,
            enable_model_summary=False, callbacks=[ModelCheckpoint(save_top_k=-1, save_last=True)],
        )  # fmt: skip
        trainer.fit(Module(), data, data)
    return root


def test_a_lightning_projects_root_is_all_checkpoints_of_its_versions(lightning: Path, tmp_path: Path) -> None:
    found = discover(lightning)
    epochs = ("epoch=0-step=2.ckpt", "epoch=1-step=4.ckpt")
    assert found.names == tuple(f"lightning_logs/version_{run}/checkpoints/{name}" for run in (0, 1) for name in epochs)
    assert found.doubt is not None
    assert "are of 2: `lightning_logs/version_0/checkpoints`, `lightning_logs/version_1/checkpoints`" in found.doubt
    assert [path.name for path in found.side_files] == ["hparams.yaml"]
    one = discover(lightning, pattern="*/version_1")
    assert one.names == found.names[2:]
    assert one.doubt is None
    output = combine_checkpoints(lightning, output=tmp_path / "out")
    states = [torch.load(lightning / name, weights_only=False)["state_dict"] for name in found.names]
    assert same(load_file(output / "model.safetensors"), mean(states))


def test_metrics_come_from_lightnings_table(lightning: Path) -> None:
    found = discover(lightning)
    metrics = metrics_beside(found.checkpoints, found.folder).metrics
    assert [metrics[name].keys() for name in found.names] == [{"val_loss"}] * 4
    last = (lightning / "lightning_logs/version_1/metrics.csv").read_text().split()[-1].split(",")[-1]
    assert metrics[found.names[-1]]["val_loss"] == float(last)


def test_accelerates_states_are_found_at_the_projects_root(tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    project = tmp_path / "project"
    configuration = ProjectConfiguration(project_dir=str(project), automatic_checkpoint_naming=True)
    accelerator = Accelerator(cpu=True, project_config=configuration)
    model = nn.Linear(4, 2)
    model, optimiser = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    states = []
    for _ in range(3):
        accelerator.backward(model(torch.ones(1, 4)).sum())
        optimiser.step()
        accelerator.save_state(safe_serialization=len(states) < 2)
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    accelerator.save_model(model, str(project / "final"))
    found = discover(project)
    assert found.names == tuple(f"checkpoints/checkpoint_{number}" for number in range(3))
    assert found.doubt is None
    output = combine_checkpoints(project, output=tmp_path / "out")
    assert same(load_file(output / "model.safetensors"), mean(states))


def test_inspect_shows_the_metrics_and_what_training_called_the_best(trained: Path) -> None:
    rows = {each.name: each for each in inspect([trained / "run-0", trained / "run-1"]).checkpoints}
    assert rows["run-0/checkpoint-2"].metrics.keys() == {"eval_loss"}
    assert sum("its training calls it the best" in each.notes for each in rows.values()) == 2
    assert rows["run-0/model.safetensors"].duplicate_of in rows

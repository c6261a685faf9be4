"""The callback in a real Lightning training, with a service in this process."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

from ladle.callbacks.lightning import LadleCallback
from ladle.cli.stack import StackError
from ladle.curve import read
from tests.unit.callbacks.services import Service

pytestmark = pytest.mark.filterwarnings("ignore")


class Lit(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))
        self.teacher = torch.nn.Linear(4, 3)

    def training_step(self, examples: Any, _: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.model(examples[0]), examples[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.05)


class Recorder(Callback):
    def __init__(self) -> None:
        self.states: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *others: Any) -> None:
        self.states[trainer.global_step] = {name: value.clone() for name, value in pl_module.model.state_dict().items()}


def fit(
    folder: Path, *callbacks: Callback, epochs: int = 2, resume: Path | None = None, **options: Any
) -> tuple[Trainer, Recorder]:
    generator = torch.Generator().manual_seed(0)
    rows = TensorDataset(torch.randn(24, 4, generator=generator), torch.randint(0, 3, (24,), generator=generator))
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, callbacks=[*callbacks, recorder],
        **{"logger": CSVLogger(folder), "enable_checkpointing": False, **options},
    )  # fmt: skip
    trainer.fit(Lit(), DataLoader(rows, batch_size=4), ckpt_path=resume, weights_only=False)
    return trainer, recorder


@pytest.fixture
def val_set(tmp_path: Path) -> Path:
    path = tmp_path / "val.npz"
    path.write_bytes(b"")
    return path


def test_the_average_lies_beside_the_run_and_its_metrics_are_in_the_log(
    tmp_path: Path, service: Service, val_set: Path
) -> None:
    callback = LadleCallback(val_set, every=3, last=3, module="model", config={"ladle_task": "x"}, method="uniform")
    _, recorder = fit(tmp_path / "run", callback)
    home = tmp_path / "run/lightning_logs/version_0"
    (job,) = service.jobs
    assert (job["ckpt_dir"], job["method"]) == (home / "ladle/checkpoints", "uniform")
    assert job["checkpoints"] == {"steps": [6, 9, 12]}
    averaged = load_file(home / "averaged/model.safetensors")
    assert set(averaged) == set(Lit().model.state_dict()), "the model's own names, and nothing of the teacher"
    for name in ("0.weight", "1.running_mean"):
        exact = torch.stack([recorder.states[step][name].double() for step in (6, 9, 12)]).mean(0).float()
        assert torch.equal(averaged[name], exact), name
    assert json.loads((home / "averaged/config.json").read_text()) == {"ladle_task": "x"}
    with (home / "metrics.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row.get("ladle/accuracy"))
    assert (float(row["ladle/accuracy"]), float(row["ladle/best_accuracy"])) == pytest.approx((0.51, 0.41))
    assert int(row["step"]) == 12
    (point,) = read(home / "ladle/curve.jsonl")
    assert (point.step, point.average) == (12, 0.51)


def test_a_resumed_training_continues_in_the_folder_of_the_one_before(
    tmp_path: Path, service: Service, val_set: Path
) -> None:
    keep = ModelCheckpoint(tmp_path / "own", every_n_train_steps=5, save_top_k=-1)
    fit(tmp_path / "run", LadleCallback(val_set, every=2, module="model"), keep, epochs=1, enable_checkpointing=True)
    own = next((tmp_path / "own").glob("*step=5*"))
    callback = LadleCallback(val_set, every=2, module="model")
    trainer, recorder = fit(tmp_path / "run", callback, keep, resume=own, enable_checkpointing=True)
    assert trainer.log_dir is not None
    assert trainer.log_dir.endswith("version_1")
    home = tmp_path / "run/lightning_logs/version_0"
    assert service.jobs[-1]["ckpt_dir"] == home / "ladle/checkpoints"
    assert service.jobs[-1]["checkpoints"] == {"steps": [2, 4, 6, 8, 10, 12]}
    kept = load_file(home / "ladle/checkpoints/checkpoint-6/model.safetensors")
    assert torch.equal(kept["0.weight"], recorder.states[6]["0.weight"])


def test_accumulated_batches_are_no_steps(tmp_path: Path, service: Service, val_set: Path) -> None:
    fit(tmp_path, LadleCallback(val_set, every=2, folder=tmp_path / "here"), accumulate_grad_batches=2, logger=False)
    assert service.jobs[0]["checkpoints"] == {"steps": [2, 4, 6]}
    state = load_file(tmp_path / "here/ladle/checkpoints/checkpoint-2/model.safetensors")
    assert "teacher.weight" in state, "the whole module, where no part is named"


def test_a_curve_is_made_while_the_training_goes_on(tmp_path: Path, service: Service, val_set: Path) -> None:
    callback = LadleCallback(val_set, every=2, module="model", average_every=2)

    class Slow(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            assert callback.keeper is not None
            assert callback.run is not None
            callback.keeper.flush()
            assert callback.run.averager.wait(300)

    fit(tmp_path / "run", callback, Slow(), epochs=2)
    assert [point.step for point in read(tmp_path / "run/lightning_logs/version_0/ladle/curve.jsonl")][-1] == 12
    assert service.jobs[0]["checkpoints"]["steps"] == [2, 4]


def test_without_a_service_the_training_ends_well(
    tmp_path: Path, service: Service, val_set: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service.error = StackError("A stack needs the extras service and worker.")
    with caplog.at_level(logging.WARNING, "ladle.callbacks"):
        trainer, _ = fit(tmp_path / "run", LadleCallback(val_set, every=2, module="model"))
    assert trainer.state.finished
    assert "ladle run " in caplog.text
    assert "needs the extras" in caplog.text


def test_a_training_that_fails_keeps_its_checkpoints(tmp_path: Path, service: Service, val_set: Path) -> None:
    class Breaking(Callback):
        def on_train_batch_end(self, trainer: Any, *others: Any) -> None:
            if trainer.global_step == 7:
                raise KeyError("of the training")

    with pytest.raises(KeyError, match="of the training"):
        fit(tmp_path, LadleCallback(val_set, every=2, folder=tmp_path / "run"), Breaking())
    assert sorted(path.name for path in (tmp_path / "run/ladle/checkpoints").iterdir()) == [
        "checkpoint-2", "checkpoint-4", "checkpoint-6",
    ]  # fmt: skip
    assert not service.jobs


def test_a_part_that_is_not_there_is_told_before_the_training(tmp_path: Path, val_set: Path) -> None:
    with pytest.raises(ValueError, match=r"`module` must be a part of the LightningModule \(model, teacher\)"):
        fit(tmp_path, LadleCallback(val_set, every=2, module="modle"))


def test_a_trial_of_one_batch_keeps_nothing(tmp_path: Path, service: Service, val_set: Path) -> None:
    fit(tmp_path / "run", LadleCallback(val_set, every=1), fast_dev_run=True)
    assert not service.jobs
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").rglob("checkpoint-*"))

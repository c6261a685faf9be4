"""Coefficients of the checkpoints' outputs: against slow references, kept, bounded, resumed, and refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ladle_small_cnn import SmallCnn, SmallCnnTask
from safetensors.torch import load_file
from torch import Tensor, nn

from ladle_engine import MethodError, average
from ladle_engine.evaluation import cache, kept_outputs
from ladle_engine.evaluation.evaluate import evaluate_and_keep
from ladle_engine.methods import cached_outputs
from ladle_engine.resume_state import ResumeState
from ladle_engine.tasks.base import Batch
from ladle_engine.tasks.examples import Examples, split
from ladle_engine.tasks.guard import gives_logits
from ladle_engine.training.of_outputs import best_of_outputs
from tests.builders import CONFIG, make_checkpoints, make_val_set
from tests.unit.engine.toy import Interrupted, ToyData, ToyTask, plain_net, write_checkpoints


def newton(logits_KNC: np.ndarray, labels_N: np.ndarray, prior: float) -> np.ndarray:
    """The same minimum by Newton's method on the coefficients themselves, with their sum as a constraint."""
    K, N, C = logits_KNC.shape
    alpha = np.full(K, 1 / K)
    ridge = 1 / (N * prior**2)
    for _ in range(100):
        z = np.einsum("k,knc->nc", alpha, logits_KNC)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        gradient = np.einsum("knc,nc->k", logits_KNC, p - np.eye(C)[labels_N]) / N + ridge * (alpha - 1 / K)
        mean = np.einsum("knc,nc->kn", logits_KNC, p)
        hessian = (np.einsum("knc,nc,lnc->kl", logits_KNC, p, logits_KNC) - mean @ mean.T) / N + ridge * np.eye(K)
        system = np.block([[hessian, np.ones((K, 1))], [np.ones((1, K)), np.zeros((1, 1))]])
        step = np.linalg.solve(system, np.append(-gradient, 0.0))[:K]
        alpha = alpha + step
    return alpha


@pytest.mark.parametrize("prior", [0.1, 1.0, math.inf])
def test_the_minimum_is_that_of_newtons_method(prior: float) -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(5, 60, 3)), generator.integers(3, size=60)
    targets = torch.from_numpy(labels)

    def losses(logits_NC: Tensor) -> Tensor:
        return F.cross_entropy(logits_NC, targets, reduction="none")

    weights = torch.full((60,), 1 / 60, dtype=torch.float64)
    found = best_of_outputs(torch.from_numpy(logits), losses, weights, prior)
    np.testing.assert_allclose(found.numpy(), newton(logits, labels, prior), atol=1e-7)
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)
    around = [found + 0.05 * (torch.eye(5, dtype=torch.float64)[i] - 0.2) for i in range(5)]
    if math.isinf(prior):
        lowest, *others = (
            float(losses(torch.einsum("k,knc->nc", each, torch.from_numpy(logits))) @ weights)
            for each in (found, *around)
        )
        assert min(others) > lowest


def job(folder: Path, name: str, task: Any = None, **more: Any) -> dict[str, Any]:
    """Its report."""
    checkpoints, val_set, method = folder / "checkpoints", folder / "checkpoints", "cached-outputs"
    given: dict[str, Any] = {"val_set": val_set, "method": method} | more
    average(checkpoints, output=folder / name, task=task or ToyTask(), **given)
    report: dict[str, Any] = json.loads((folder / name / "report.json").read_text())
    return report


def alpha_of(report: Mapping[str, Any], method: str = "cached-outputs") -> list[float]:
    (row,) = (row for row in report["candidates"] if row["method"] == method)
    (alpha,) = row["coefficients"]
    return list(alpha)


def linear_net() -> nn.Module:
    return nn.Linear(6, 1)


def test_of_linear_models_it_is_ridge_regression_and_weights_are_as_good_as_outputs(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", linear_net)
    report = job(tmp_path, "out", ToyTask(linear_net), method_options={"prior": 0.5})
    fit, _ = split(64, 0.5, 0)
    data, prior = ToyData(64).batch(fit), 0.5
    states = [load_file(file) for file in sorted((tmp_path / "checkpoints").glob("*.safetensors"))]
    outputs = torch.stack([(data["x"] @ state["weight"].T + state["bias"])[:, 0] for state in states]).double()
    centred, mean = outputs - outputs.mean(dim=0), outputs.mean(dim=0)
    N, K = len(fit), len(states)
    normal = 2 * centred @ centred.T / N + torch.eye(K, dtype=torch.float64) / (N * prior**2)
    u = torch.linalg.solve(normal, 2 * centred @ (data["y"][:, 0].double() - mean) / N)
    expected = 1 / K + u - u.mean()
    assert alpha_of(report) == pytest.approx(expected.tolist(), abs=2e-3), "outputs are kept as halves"
    details = report["details"]["cached-outputs"]
    assert details["examples"] == N
    assert details["loss_of_weights"] == pytest.approx(details["loss_of_outputs"], rel=2e-3)


def test_of_a_network_it_is_the_reference_and_the_report_says_what_the_weights_are_worth(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz")
    report = job(tmp_path, "out", "small-cnn", val_set=tmp_path / "val.npz")
    with np.load(tmp_path / "val.npz") as data:
        images, labels = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])
    fit, _ = split(len(labels), 0.5, 0)
    outputs = []
    for file in sorted((tmp_path / "checkpoints").glob("*.safetensors")):
        model = SmallCnn(**CONFIG, width=4, batch_norm=False)
        model.load_state_dict(load_file(file))
        with torch.no_grad():
            outputs.append(model(images[fit].float()).double())
    expected = newton(torch.stack(outputs).numpy(), labels[fit].numpy(), 0.3)
    alpha = alpha_of(report)
    assert alpha == pytest.approx(expected.tolist(), abs=5e-3), "outputs are kept as halves"
    averaged = F.cross_entropy(
        torch.einsum("k,knc->nc", torch.tensor(alpha).double(), torch.stack(outputs)), labels[fit]
    )
    details = report["details"]["cached-outputs"]
    assert details["loss_of_outputs"] == pytest.approx(float(averaged), rel=1e-3)
    (row,) = (row for row in report["candidates"] if row["method"] == "cached-outputs")
    assert details["loss_of_weights"] == pytest.approx(row["fit"]["loss"], abs=1e-6)


def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """On how many examples models are evaluated and what they put out is kept, call by call, from now on."""
    counts: list[int] = []

    def counted(model: nn.Module, examples: Examples, *more: Any, **options: Any) -> Any:
        counts.append(len(examples))
        return evaluate_and_keep(model, examples, *more, **options)

    monkeypatch.setattr(kept_outputs, "evaluate_and_keep", counted)
    return counts


def test_outputs_that_are_kept_survive_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    whole = job(tmp_path, "whole")

    def stop(*arguments: Any) -> Any:
        raise Interrupted

    state = tmp_path / "state"
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(cached_outputs, "_solve", stop)
        patched.setattr(ResumeState, "is_due", lambda state: True)
        patched.setattr(cache, "SAVING_SHARE", math.inf)
        job(tmp_path, "out", state_dir=state)
    kept = sorted(state.rglob("outputs-*.pt"))
    assert len(kept) == 5
    kept[0].unlink()
    kept[1].write_bytes(b"damaged")
    counts = evaluated(monkeypatch)
    resumed = job(tmp_path, "out", state_dir=state)
    assert alpha_of(resumed) == alpha_of(whole)
    assert counts == [1, 32, 32], "one example tells how much a model puts out; then those two checkpoints again"
    assert any("is damaged" in warning for warning in resumed["warnings"])


def test_saving_outputs_does_not_put_off_the_state_that_is_saved_every_few_seconds(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    job(tmp_path, "out", state_dir=tmp_path / "state")
    state = ResumeState(tmp_path / "again", "key", every_s=0.0)
    before = state._last_save
    state.write("outputs-of-one.pt", b"content")
    assert state._last_save == before


def test_what_is_kept_is_bounded_by_whole_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoints(tmp_path / "checkpoints", plain_net, count=4)
    task, options = ToyTask(count=1200), {"methods": ["greedy-soup", "cached-outputs"]}
    everything = job(tmp_path, "everything", task, method="auto", method_options=options)
    assert everything["details"]["cached-outputs"]["examples"] == 600
    monkeypatch.setattr(kept_outputs, "MOST_BYTES", 2 * 4 * 300)
    bounded = job(tmp_path, "bounded", task, method="auto", method_options=options)
    assert bounded["details"]["cached-outputs"]["examples"] == 256
    soups = [
        next(row for row in report["candidates"] if row["method"] == "greedy-soup") for report in (everything, bounded)
    ]
    assert soups[0]["label"] == soups[1]["label"], "and the soup sees all"
    monkeypatch.setattr(kept_outputs, "MOST_BYTES", 2 * 4 * 200)
    with pytest.raises(MethodError, match="puts out too many numbers"):
        job(tmp_path, "nothing", task)


class WithoutLogits(ToyTask):
    logits = None  # type: ignore[assignment]

    def evaluate(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"loss": (model(batch["x"]) - batch["y"]).square().mean(dim=1)}


class AnotherLoss(ToyTask):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.l1_loss(model(batch["x"]), batch["y"])


@pytest.mark.parametrize("task", [WithoutLogits, AnotherLoss])
def test_a_task_without_logits_of_its_loss_is_refused_before_anything_runs(tmp_path: Path, task: type[ToyTask]) -> None:
    assert not gives_logits(task())
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    made = task()
    with pytest.raises(MethodError, match="must have a task whose loss is convex"):
        job(tmp_path, "out", made, method="auto", method_options={"methods": ["best", "cached-outputs"]})
    assert made.losses_taken == 0


def test_a_subclass_that_only_changes_the_model_gives_logits() -> None:
    assert gives_logits(SmallCnnTask.from_options({}))

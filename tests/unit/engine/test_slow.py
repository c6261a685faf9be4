"""What the engine trains is what the slow reference (`slow.py`) trains: every basis, subspace, prior and optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.model.groups import Grouping
from ladle_engine.subspace.bases import (
    Convex,
    Layered,
    MakeBasis,
    gram_schmidt,
    normalised,
    own_lengths,
    principal,
    principal_axes,
)
from ladle_engine.subspace.prior import Learned
from ladle_engine.training.settings import TrainSettings
from ladle_engine.training.train import train
from ladle_engine.training.trainer import Trainer
from tests.unit.engine.slow import N, SlowPrior, around_the_mean, slow_basis, slow_lbfgs, slow_model, slow_training
from tests.unit.engine.test_train import SETTINGS
from tests.unit.engine.toy import TiedNet, norm_net, plain_net, subspace_for, trainer_for, write_checkpoints

BASES: dict[str, MakeBasis] = {
    "own lengths": own_lengths,
    "principal axes": principal_axes,
    "normalised": normalised,
    "gram-schmidt": gram_schmidt,
    "principal": principal,
}
GROUPINGS: tuple[Grouping, ...] = ("model", "layers", "tensors", 2, ["weight", "bias"])


def assert_same(found_KG: Tensor, expected_KG: Tensor) -> None:
    moved = (expected_KG - 1 / len(expected_KG)).abs().max()
    assert moved > 0.02, "the reference must have gone somewhere"
    torch.testing.assert_close(found_KG, expected_KG, rtol=0, atol=1e-5)


def expected_of(
    checkpoints: CheckpointSet, trainer: Trainer, build: Callable[[], nn.Module], basis: str, settings: TrainSettings
) -> Tensor:
    """What the reference trains in one basis."""
    slow = slow_model(checkpoints, build, trainer.groups)
    made = slow_basis(basis, slow.directions())
    return slow_training(
        slow,
        around_the_mean(made.move, slow.K),
        torch.zeros_like(made.log_variance_MG),
        settings,
        made.log_variance_MG,
    )


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("grouping", GROUPINGS, ids=str)
def test_every_change_of_basis_is_the_one_that_the_directions_themselves_give(
    tmp_path: Path, grouping: Grouping, basis: str
) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, grouping)
    found = subspace_for(checkpoints, trainer, BASES[basis]).basis
    expected = slow_basis(basis, slow_model(checkpoints, plain_net, trainer.groups).directions())
    M = found.matrix_GKM.shape[2]
    assert not expected.matrix_GKM[:, :, M:].any(), "what is left out has no use"
    # An axis has no sign: the matrices of the projections on each are compared, column by column.
    for g in range(len(trainer.groups)):
        for m in range(M):
            one_K, other_K = found.matrix_GKM[g, :, m], expected.matrix_GKM[g, :, m]
            torch.testing.assert_close(one_K.outer(one_K), other_K.outer(other_K), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.log_variance_MG, expected.log_variance_MG[:M], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("grouping", GROUPINGS, ids=str)
@pytest.mark.parametrize("build", [plain_net, TiedNet])
def test_forty_adamw_steps_equal_autograd_through_the_average(
    tmp_path: Path, build: Callable[[], nn.Module], grouping: Grouping, basis: str
) -> None:
    if build is TiedNet and grouping == ["weight", "bias"]:
        grouping = ["first", "head.w"]
    checkpoints = write_checkpoints(tmp_path, build)
    trainer = trainer_for(checkpoints, build, grouping)
    trained = train(trainer, subspace_for(checkpoints, trainer, BASES[basis]), SETTINGS)
    assert_same(trained.weights_KG, expected_of(checkpoints, trainer, build, basis, SETTINGS))


@pytest.mark.parametrize(
    "change",
    [
        {"optimiser": "sgd", "learning_rate": 0.3},
        {"optimiser": "sgd", "momentum": 0.0, "learning_rate": 1.0, "prior": None, "l2": 0.2},
        {"schedule": "linear"},
        {"schedule": "constant", "warmup_fraction": 0.0},
        {"schedule": "step"},
        {"averaged_fraction": 0.5},
    ],
    ids=str,
)
def test_every_optimiser_schedule_and_penalty_equals_the_reference(tmp_path: Path, change: dict[str, Any]) -> None:
    settings = replace(SETTINGS, **change)
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, "layers")
    trained = train(trainer, subspace_for(checkpoints, trainer), settings)
    assert_same(trained.weights_KG, expected_of(checkpoints, trainer, plain_net, "own lengths", settings))


@pytest.mark.slow
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("grouping", ["model", "layers", "tensors"])
def test_a_learned_prior_is_the_documented_rule_in_plain_loops(tmp_path: Path, grouping: Grouping, basis: str) -> None:
    settings = replace(SETTINGS, prior="learned", averaged_fraction=0.5)
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, grouping)
    found = train(trainer, subspace_for(checkpoints, trainer, BASES[basis]), settings).weights_KG
    assert_same(found, expected_of(checkpoints, trainer, plain_net, basis, settings))
    unlearned = replace(settings, prior=0.3)
    assert (found - expected_of(checkpoints, trainer, plain_net, basis, unlearned)).abs().max() > 1e-4


@pytest.mark.parametrize("slope", [3.0, -3.0])
def test_at_the_limit_of_its_slope_a_learned_prior_still_has_the_likeliest_scale(slope: float) -> None:
    """Moves whose squares grow (or shrink) with the axes' variance more steeply than a slope may."""
    generator = torch.Generator().manual_seed(0)
    log_variance_MG = torch.tensor([[-2.0], [-0.5], [0.3], [0.4], [0.9]], dtype=torch.float64)
    theta_MG = (slope * log_variance_MG / 2).exp()
    found, expected = Learned(log_variance_MG=log_variance_MG, examples=N), SlowPrior(log_variance_MG)
    for _ in range(40):
        gradient_MG = torch.randn(log_variance_MG.shape, dtype=torch.float64, generator=generator)
        found.see(theta_MG, gradient_MG, 8)
        expected.see(theta_MG, gradient_MG, 8)
    assert found.slope == pytest.approx(expected.b)
    assert found.log_scale == pytest.approx(expected.a, abs=1e-6)


@pytest.mark.parametrize("prior", [0.5, "learned", None])
@pytest.mark.parametrize("grouping", ["layers", "tensors", 2], ids=str)
@pytest.mark.parametrize("basis", ["principal axes", "own lengths"])
def test_shared_coefficients_with_each_groups_own_equal_the_reference(
    tmp_path: Path, basis: str, grouping: Grouping, prior: float | str | None
) -> None:
    settings = replace(SETTINGS, prior=prior)
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, grouping)
    own = subspace_for(checkpoints, trainer, BASES[basis])
    shared = subspace_for(checkpoints, trainer_for(checkpoints, plain_net, "model"), BASES[basis])
    found = train(trainer, Layered(alpha_0_KG=own.alpha_0_KG, shared=shared.basis, own=own.basis), settings)

    slow = slow_model(checkpoints, plain_net, trainer.groups)
    directions = slow.directions()
    of_groups, of_all = slow_basis(basis, directions), slow_basis(basis, [torch.cat(directions, dim=1)])
    log_variance_MG = torch.cat([of_all.log_variance_MG, of_groups.log_variance_MG], dim=1)
    alpha_of = around_the_mean(lambda theta_MG: of_all.move(theta_MG[:, :1]) + of_groups.move(theta_MG[:, 1:]), slow.K)
    expected = slow_training(slow, alpha_of, torch.zeros_like(log_variance_MG), settings, log_variance_MG)
    assert_same(found.weights_KG, expected)


@pytest.mark.parametrize(
    "change", [{"prior": None}, {"prior": 0.5}, {"optimiser": "sgd", "learning_rate": 0.5}], ids=str
)
@pytest.mark.parametrize("grouping", ["model", "layers"])
def test_convex_coefficients_equal_the_reference(tmp_path: Path, grouping: Grouping, change: dict[str, Any]) -> None:
    settings = replace(SETTINGS, **change)
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, grouping)
    alpha_0_KG = torch.full((5, len(trainer.groups)), 0.2, dtype=torch.float64)
    found = train(trainer, Convex(alpha_0_KG=alpha_0_KG), settings).weights_KG

    def softmax(theta_KG: Tensor) -> Tensor:
        return theta_KG.exp() / theta_KG.exp().sum(dim=0)

    slow = slow_model(checkpoints, plain_net, trainer.groups)
    assert_same(found, slow_training(slow, softmax, alpha_0_KG.log(), settings))


@pytest.mark.parametrize("prior", [0.5, "learned"])
@pytest.mark.parametrize("grouping", ["model", "layers", "tensors"])
def test_batch_norm_in_training_mode_equals_the_reference(
    tmp_path: Path, grouping: Grouping, prior: float | str
) -> None:
    settings = replace(SETTINGS, prior=prior)
    checkpoints = write_checkpoints(tmp_path, norm_net)
    trainer = trainer_for(checkpoints, norm_net, grouping)
    assert trainer.statistics.name == "recomputed"
    found = train(trainer, subspace_for(checkpoints, trainer, principal_axes), settings).weights_KG
    assert_same(found, expected_of(checkpoints, trainer, norm_net, "principal axes", settings))


@pytest.mark.parametrize("passes", [1, 2, 5, 10])
@pytest.mark.parametrize("grouping", ["model", "layers"])
def test_lbfgs_sees_the_points_that_torchs_own_sees_on_the_same_objective(
    tmp_path: Path, grouping: Grouping, passes: int
) -> None:
    settings = replace(SETTINGS, optimiser="lbfgs", steps=passes)
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, grouping)
    found = train(trainer, subspace_for(checkpoints, trainer), settings).weights_KG
    slow = slow_model(checkpoints, plain_net, trainer.groups)
    basis = slow_basis("own lengths", slow.directions())
    expected = slow_lbfgs(
        slow, around_the_mean(basis.move, 5), torch.zeros_like(basis.log_variance_MG), settings, passes
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert passes == 1 or (expected - 0.2).abs().max() > 0.02

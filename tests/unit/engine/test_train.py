"""The loop over coefficients: what holds of every run. That it is exact, `test_slow` says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ladle_engine.checkpoints import discover
from ladle_engine.errors import MethodError
from ladle_engine.subspace.bases import (
    Convex,
    Layered,
    Linear,
    own_lengths,
    principal_axes,
)
from ladle_engine.training.batch_order import BatchOrder
from ladle_engine.training.settings import TrainSettings, schedule
from ladle_engine.training.train import Trained, train
from ladle_engine.training.trainer import Trainer
from tests.unit.engine.toy import plain_net, subspace_for, trainer_for, write_checkpoints

SETTINGS = TrainSettings(
    steps=40,
    learning_rate=0.05,
    optimiser="adamw",
    momentum=0.9,
    schedule="cosine",
    warmup_fraction=0.1,
    averaged_fraction=0.0,
    prior=0.5,
    l2=0.0,
    sam_radius=0.0,
    seed=3,
)


def test_shared_coefficients_move_every_group_and_span_no_more_than_the_groups_own(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, "layers")
    own = subspace_for(checkpoints, trainer, principal_axes)
    shared = subspace_for(checkpoints, trainer_for(checkpoints, plain_net, "model"), principal_axes)
    layered = Layered(alpha_0_KG=own.alpha_0_KG, shared=shared.basis, own=own.basis)
    theta_MG = torch.randn(*layered.start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    only_shared_MG, only_own_MG = theta_MG.clone(), theta_MG.clone()
    only_shared_MG[:, 1:], only_own_MG[:, :1] = 0.0, 0.0
    torch.testing.assert_close(layered.weights(only_own_MG), own.weights(theta_MG[:, 1:]))
    torch.testing.assert_close(
        layered.weights(only_shared_MG), shared.weights(theta_MG[:, :1]).expand_as(own.alpha_0_KG)
    )
    torch.testing.assert_close(layered.weights(theta_MG).sum(dim=0), torch.ones(2, dtype=torch.float64))
    trained = train(trainer, layered, replace(SETTINGS, prior="learned"))
    before, _ = trainer.loss_and_gradient(own.alpha_0_KG, trainer.examples.indices)
    after, _ = trainer.loss_and_gradient(trained.weights_KG, trainer.examples.indices)
    assert after < before


def test_bases_of_different_size_share_their_rows_of_theta(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, "layers")
    own = subspace_for(checkpoints, trainer, own_lengths)
    shared = subspace_for(checkpoints, trainer_for(checkpoints, plain_net, "model"), principal_axes)
    layered = Layered(alpha_0_KG=own.alpha_0_KG, shared=shared.basis, own=own.basis)
    assert own.start.shape == (5, 2)
    assert shared.start.shape == (4, 1)
    assert layered.start.shape == (5, 3)
    assert train(trainer, layered, SETTINGS).weights_KG.isfinite().all()


def test_streamed_directions_train_the_same_coefficients_as_resident_ones(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    resident = trainer_for(checkpoints, plain_net, "layers")
    streamed = trainer_for(checkpoints, plain_net, "layers", precision="streamed")
    subspace = subspace_for(checkpoints, resident)
    torch.testing.assert_close(
        train(streamed, subspace, SETTINGS).weights_KG,
        train(resident, subspace, SETTINGS).weights_KG,
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize(("precision", "most"), [("bfloat16", 1e-3), ("int8", 3e-3), ("int4", 5e-2)])
def test_coarse_directions_cost_only_coefficient_accuracy(tmp_path: Path, precision: str, most: float) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    exact = trainer_for(checkpoints, plain_net, "model")
    coarse = trainer_for(checkpoints, plain_net, "model", precision=precision)
    subspace = subspace_for(checkpoints, exact)
    difference = (train(coarse, subspace, SETTINGS).weights_KG - train(exact, subspace, SETTINGS).weights_KG).abs()
    assert 0 < difference.max() < most


def full_objective(trainer: Trainer, subspace: Linear, weights_KG: Tensor, prior: float) -> float:
    loss, _ = trainer.loss_and_gradient(weights_KG, trainer.examples.indices)
    u_KG = weights_KG - subspace.alpha_0_KG
    return loss + float(u_KG.square().sum()) / (2 * len(trainer.examples) * prior**2)


def test_lbfgs_reaches_a_lower_minimum_than_adamw_in_as_many_batches(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    reached = {}
    for optimiser in ("adamw", "lbfgs"):
        trainer = trainer_for(checkpoints, plain_net, "layers")
        subspace = subspace_for(checkpoints, trainer)
        # 61 examples are 8 batches of 8, and so 20 passes.
        steps = 20 if optimiser == "lbfgs" else 160
        trained = train(trainer, subspace, replace(SETTINGS, optimiser=optimiser, steps=steps))
        reached[optimiser] = full_objective(trainer, subspace, trained.weights_KG, prior=0.5)
        assert len(trained.losses) <= steps
    assert reached["lbfgs"] < reached["adamw"]


def test_lbfgs_measures_no_point_twice_and_ends_where_nothing_improves(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, "model")
    place = trainer.placement.load_weights
    placed: list[Tensor] = []

    def watched(weights_KG: Tensor, groups: Any) -> None:
        placed.append(weights_KG.clone())
        place(weights_KG, groups)

    trainer.placement.load_weights = watched  # type: ignore[method-assign]  # a spy
    subspace = subspace_for(checkpoints, trainer)
    trained = train(trainer, subspace, replace(SETTINGS, optimiser="lbfgs", steps=10_000))
    assert len(placed) == len(trained.losses) < 100
    assert not any(torch.equal(one, other) for i, one in enumerate(placed) for other in placed[:i])


def test_sam_takes_the_gradient_uphill(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, "model")
    subspace = subspace_for(checkpoints, trainer)
    settings = replace(SETTINGS, optimiser="sgd", momentum=0.0, steps=1, warmup_fraction=0.0, prior=None)
    centre_KG = subspace.alpha_0_KG
    batch = trainer.examples.indices[BatchOrder(61, 8, SETTINGS.seed).batch(0)]
    _, first_KG = trainer.loss_and_gradient(centre_KG, batch)
    first_KG = first_KG - first_KG.mean(dim=0)
    uphill_KG = centre_KG + 0.4 * first_KG / first_KG.norm()
    _, expected_KG = trainer.loss_and_gradient(uphill_KG, batch)
    expected_KG = centre_KG - 0.05 * (expected_KG - expected_KG.mean(dim=0))
    moved_KG = train(trainer, subspace, replace(settings, sam_radius=0.4)).weights_KG
    torch.testing.assert_close(moved_KG, expected_KG, rtol=0, atol=1e-7)
    plain_KG = train(trainer, subspace, settings).weights_KG
    assert (plain_KG - moved_KG).abs().max() > 1e-4


def test_convex_coefficients_stay_positive_and_lower_the_loss(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, "layers")
    start_KG = torch.full((5, 2), 0.2, dtype=torch.float64)
    trained = train(trainer, Convex(alpha_0_KG=start_KG), replace(SETTINGS, prior=None, learning_rate=0.2))
    assert bool((trained.weights_KG > 0).all())
    torch.testing.assert_close(trained.weights_KG.sum(dim=0), torch.ones(2, dtype=torch.float64))
    before, _ = trainer.loss_and_gradient(start_KG, trainer.examples.indices)
    after, _ = trainer.loss_and_gradient(trained.weights_KG, trainer.examples.indices)
    assert after < before


def test_no_gradient_outlives_its_projection(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, "model")
    trainer.loss_and_gradient(torch.full((5, 1), 0.2, dtype=torch.float64), torch.arange(8))
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_learning_rates_mean_the_same_for_a_model_a_thousand_times_larger(tmp_path: Path) -> None:
    """Scale-free: `u` moves by the rate in units of the directions' lengths, however long those are."""
    near = trainer_for(write_checkpoints(tmp_path / "near", plain_net, spread=1e-3), plain_net, "model")
    far = trainer_for(write_checkpoints(tmp_path / "far", plain_net, spread=1.0), plain_net, "model")
    one_step = replace(SETTINGS, steps=1, warmup_fraction=0.0)
    for folder, trainer in (("near", near), ("far", far)):
        subspace = subspace_for(discover(tmp_path / folder), trainer)
        u_KG = train(trainer, subspace, one_step).weights_KG - subspace.alpha_0_KG
        # AdamW's first step is the rate in each coordinate; what all share moves nothing and is taken out.
        signs_KG = (u_KG - u_KG.min()).gt(0.05).double() * 0.1 - 0.05
        torch.testing.assert_close(u_KG, signs_KG - signs_KG.mean(), rtol=0, atol=1e-4)


def test_a_loss_that_becomes_nan_names_method_step_and_rate(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, "model")
    trainer.examples.data.y[20:] = float("nan")  # type: ignore[attr-defined]  # the toy's own data
    with pytest.raises(MethodError, match=r"`twa` must be finite.* at step \d+ of 40 the loss is nan.*0\.05") as caught:
        train(trainer, subspace_for(checkpoints, trainer), SETTINGS)
    assert caught.value.code == "non-finite-loss"


def test_fewer_examples_than_a_batch_are_one_batch() -> None:
    order = BatchOrder(5, 8, seed=0)
    assert [sorted(order.batch(step).tolist()) for step in range(3)] == [[0, 1, 2, 3, 4]] * 3


def test_every_pass_sees_each_example_at_most_once_and_passes_differ() -> None:
    order = BatchOrder(20, 6, seed=1)
    passes = [torch.cat([order.batch(3 * number + i) for i in range(3)]) for number in range(2)]
    for indices in passes:
        assert len(indices.unique()) == 18
    assert not torch.equal(passes[0], passes[1])
    assert torch.equal(BatchOrder(20, 6, seed=1).batch(5), order.batch(5))


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    rates = [schedule(step, SETTINGS) for step in range(40)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(later <= earlier for earlier, later in pairwise(rates[4:]))
    assert rates[-1] < 0.01


def test_trained_holds_the_final_coefficients(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, "model")
    trained = train(trainer, subspace_for(checkpoints, trainer), SETTINGS)
    assert isinstance(trained, Trained)
    assert len(trained.losses) == 40
    assert sum(trained.losses[-8:]) < sum(trained.losses[:8])

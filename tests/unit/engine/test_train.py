"""The trained coefficients against a slow reference: autograd through the average, all K x D in memory, one loop."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ladle_engine.binding import bind
from ladle_engine.buffers import NoStatistics
from ladle_engine.checkpoints import open_checkpoint
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.collectives import SingleProcess
from ladle_engine.directions import alpha_from_u, measure, open_directions
from ladle_engine.errors import MethodError
from ladle_engine.examples import Examples
from ladle_engine.groups import GROUPINGS, Groups
from ladle_engine.progress import ignore
from ladle_engine.state import ResumeState
from ladle_engine.train import BatchOrder, Trained, Trainer, TrainSettings, schedule
from tests.unit.engine.toy import TiedNet, ToyData, ToyTask, plain_net, write_checkpoints

SETTINGS = TrainSettings(steps=40, learning_rate=0.05, prior=0.5, optimiser="adamw", warmup_fraction=0.1, seed=3)


def trainer_for(
    checkpoints: CheckpointSet,
    build: Callable[[], nn.Module],
    grouping: str,
    storage: str = "float32",
    state: ResumeState | None = None,
) -> Trainer:
    task = ToyTask(build)
    binding = bind(task.build_model(checkpoints), checkpoints)
    groups = GROUPINGS[grouping](binding)
    return Trainer(
        method="twa",
        binding=binding,
        directions=open_directions(storage, checkpoints, binding),
        statistics=NoStatistics(binding),
        groups=groups,
        live_KG=measure(checkpoints, binding, ignore).live_KG(groups),
        examples=Examples(task=task, data=ToyData(64), indices=torch.arange(3, 64), device=torch.device("cpu")),
        collectives=SingleProcess(),
        state=state or ResumeState(None, ""),
        tell=ignore,
    )


def centre_of(trainer: Trainer, count: int) -> Tensor:
    return torch.zeros(count, len(trainer.groups), dtype=torch.float64)


def reference_alpha(checkpoints: CheckpointSet, build: Callable[[], nn.Module], groups: Groups) -> Tensor:
    """Learned as anybody would write it down first: one leaf, autograd through `sum_i alpha_i w_i`, float64."""
    weights = []
    for checkpoint in checkpoints.checkpoints:
        with open_checkpoint(checkpoint) as reader:
            weights.append({name: reader.read(name).double() for name in groups.of})
    model = build().double()
    u_KG = torch.zeros(len(weights), len(groups), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.AdamW([u_KG], lr=SETTINGS.learning_rate, weight_decay=0.0)
    data, order = ToyData(64), BatchOrder(61, 8, SETTINGS.seed)
    for step in range(SETTINGS.steps):
        batch = data.batch(torch.arange(3, 64)[order.batch(step)])
        alpha_KG = u_KG + (1 - u_KG.sum(dim=0)) / len(weights)
        average = {
            name: sum(alpha_KG[i, g] * weights[i][name] for i in range(len(weights))) for name, g in groups.of.items()
        }
        loss = (functional_call(model, average, (batch["x"].double(),)) - batch["y"].double()).square().mean()
        loss = loss + u_KG.square().sum() / (2 * 61 * SETTINGS.prior**2)
        optimiser.zero_grad()
        loss.backward()
        optimiser.param_groups[0]["lr"] = SETTINGS.learning_rate * schedule(step, SETTINGS)
        optimiser.step()
    return (u_KG + (1 - u_KG.sum(dim=0)) / len(weights)).detach()


@pytest.mark.parametrize("grouping", ["model", "layers", "tensors"])
@pytest.mark.parametrize("build", [plain_net, TiedNet])
def test_forty_adamw_steps_equal_autograd_through_the_average(
    tmp_path: Path, build: Callable[[], nn.Module], grouping: str
) -> None:
    checkpoints = write_checkpoints(tmp_path, build)
    trainer = trainer_for(checkpoints, build, grouping)
    trained = trainer.train(centre_of(trainer, 5), SETTINGS)
    expected = reference_alpha(checkpoints, build, trainer.groups)
    moved = (expected - 1 / 5).abs().max()
    assert moved > 0.05, "the reference must have gone somewhere"
    torch.testing.assert_close(alpha_from_u(trained.u_KG), expected, rtol=0, atol=1e-5)


def test_streamed_directions_train_the_same_coefficients_as_resident_ones(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    resident = trainer_for(checkpoints, plain_net, "layers")
    streamed = trainer_for(checkpoints, plain_net, "layers", storage="streamed")
    torch.testing.assert_close(
        streamed.train(centre_of(streamed, 5), SETTINGS).u_KG,
        resident.train(centre_of(resident, 5), SETTINGS).u_KG,
        rtol=0,
        atol=1e-5,
    )


def test_bfloat16_directions_cost_only_coefficient_accuracy(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    exact = trainer_for(checkpoints, plain_net, "model")
    coarse = trainer_for(checkpoints, plain_net, "model", storage="bfloat16")
    difference = (
        coarse.train(centre_of(coarse, 5), SETTINGS).u_KG - exact.train(centre_of(exact, 5), SETTINGS).u_KG
    ).abs()
    assert 0 < difference.max() < 0.02


@pytest.mark.parametrize("interrupted_after", [1, 17, 39])
def test_resuming_from_any_saved_step_gives_bit_identical_coefficients(tmp_path: Path, interrupted_after: int) -> None:
    checkpoints = write_checkpoints(tmp_path / "ckpts", plain_net)
    whole = trainer_for(checkpoints, plain_net, "layers")
    expected = whole.train(centre_of(whole, 5), SETTINGS)

    class Interrupted(Exception):
        pass

    class StateThatDies(ResumeState):
        def is_due(self) -> bool:
            return True

        def save(self, key: str, value: object) -> None:
            super().save(key, value)  # type: ignore[arg-type]  # a test double with the same meaning
            if len(value["losses"]) == interrupted_after:  # type: ignore[index]  # as above
                raise Interrupted

    dying = trainer_for(checkpoints, plain_net, "layers", state=StateThatDies(tmp_path / "state", "f"))
    with pytest.raises(Interrupted):
        dying.train(centre_of(dying, 5), SETTINGS)
    second = trainer_for(checkpoints, plain_net, "layers", state=ResumeState(tmp_path / "state", "f"))
    resumed = second.train(centre_of(second, 5), SETTINGS)
    assert torch.equal(resumed.u_KG, expected.u_KG)
    assert resumed.losses == expected.losses


def test_no_gradient_outlives_its_projection(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, "model")
    trainer.loss_and_gradient(centre_of(trainer, 5), torch.arange(8))
    assert all(parameter.grad is None for parameter in trainer.binding.model.parameters())


def test_learning_rates_mean_the_same_for_a_model_a_thousand_times_larger(tmp_path: Path) -> None:
    """Scale-free: `u` moves by the rate in units of the directions' lengths, however long those are."""
    near = trainer_for(write_checkpoints(tmp_path / "near", plain_net, spread=1e-3), plain_net, "model")
    far = trainer_for(write_checkpoints(tmp_path / "far", plain_net, spread=1.0), plain_net, "model")
    one_step = TrainSettings(steps=1, learning_rate=0.05, prior=1.0, optimiser="adamw", warmup_fraction=1.0, seed=0)
    for trainer in (near, far):
        u_KG = trainer.train(centre_of(trainer, 5), one_step).u_KG
        torch.testing.assert_close(u_KG.abs(), torch.full_like(u_KG, 0.05), rtol=1e-4, atol=0)


def test_a_loss_that_becomes_nan_names_method_step_and_rate(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, plain_net)
    trainer = trainer_for(checkpoints, plain_net, "model")
    trainer.examples.data.y[20:] = float("nan")  # type: ignore[attr-defined]  # the toy's own data
    with pytest.raises(MethodError, match=r"`twa` must be finite.* at step \d+ of 40 the loss is nan.*0\.05") as caught:
        trainer.train(centre_of(trainer, 5), SETTINGS)
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
    trained = trainer.train(centre_of(trainer, 5), SETTINGS)
    assert isinstance(trained, Trained)
    assert len(trained.losses) == 40
    assert sum(trained.losses[-8:]) < sum(trained.losses[:8])

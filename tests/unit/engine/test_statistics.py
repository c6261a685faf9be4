"""How the running statistics of mixtures are made: averaged or recomputed, whichever the fit split finds better."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle_engine import TaskError, average, candidate_state, rebuild
from ladle_engine.checkpoints import CheckpointSet
from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.evaluation.statistics_choice import StatisticsChoice, StatisticsChooser, lowest
from ladle_engine.model.batch_norm import batch_norms
from ladle_engine.model.binding import Binding, bind
from ladle_engine.model.groups import whole_model
from ladle_engine.model.statistics import MAX_EXAMPLES, AveragedStatistics, NoStatistics, RecomputedStatistics
from ladle_engine.resume_state import ResumeState
from ladle_engine.tasks.base import Batch
from ladle_engine.tasks.examples import Examples, split
from tests.builders import digits, make_checkpoints, make_val_set
from tests.unit.engine.test_resuming import Saves
from tests.unit.engine.toy import Interrupted, ToyData, ToyTask, norm_net, plain_net, write_checkpoints

CPU = torch.device("cpu")


def examples_of(build: Callable[[], nn.Module], count: int, batch_size: int = 8) -> Examples:
    task = ToyTask(build, count=count, batch_size=batch_size)
    return Examples(task=task, data=ToyData(count), indices=torch.arange(count), device=CPU)


def uniform(checkpoints: CheckpointSet, binding: Binding) -> tuple[Tensor, Any]:
    K = len(checkpoints.names)
    return torch.full((K, 1), 1 / K, dtype=torch.float64), whole_model(binding)


def chooser(
    checkpoints: CheckpointSet, examples: Examples, state: ResumeState | None = None, **changed: Any
) -> StatisticsChooser:
    """For a model that holds the last checkpoint where the mean of all would be."""
    binding = bind(examples.task.build_model(checkpoints), checkpoints)
    return replace(
        StatisticsChooser(
            checkpoints=checkpoints,
            binding=binding,
            examples=examples,
            fit=examples,
            collectives=SingleProcess(),
            state=state or ResumeState(None, ""),
            load_mean=lambda: binding.load(checkpoints.reference),
        ),
        **changed,
    )


def linear_norm() -> nn.Module:
    """Nothing saturates: wrong statistics go on to the output."""
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


# Which way


def shift_statistics(folder: Path, by: float) -> None:
    """What a file's BatchNorm takes for the mean of its inputs is wrong by so much."""
    for path in folder.glob("*.safetensors"):
        state = load_file(path)
        save_file({name: t + by if "running_mean" in name else t for name, t in state.items()}, path)


@pytest.mark.parametrize(("wrong_by", "count", "chosen"), [(30.0, 40, "recomputed"), (0.0, 16, "averaged")])
def test_the_way_with_the_lower_loss_on_the_fit_split_is_taken_however_few_examples_there_are(
    tmp_path: Path, wrong_by: float, count: int, chosen: str
) -> None:
    checkpoints = make_checkpoints(tmp_path / "checkpoints", batch_norm=True)
    shift_statistics(checkpoints, wrong_by)
    val = make_val_set(tmp_path / "val.npz", count=2 * count)
    average(checkpoints, val, output=tmp_path / "out", method="uniform", task_options={"batch_size": 4})
    report = json.loads((tmp_path / "out" / "report.json").read_text())["statistics"]
    assert report["mixtures"] == chosen
    assert report["fit_loss"][chosen] == min(report["fit_loss"].values())
    assert len(report["fit_loss"]) == 2
    # The second BatchNorm sees 4 x 4 positions.
    assert (report["examples"], report["values_per_channel"]) == (count, 16 * count)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"of an average are {chosen}" in card
    assert f"{report['fit_loss'][chosen]:.4f}" in card


def test_few_values_per_channel_are_warned_of_and_many_positions_make_up_for_few_examples(tmp_path: Path) -> None:
    checkpoints = make_checkpoints(tmp_path / "checkpoints", batch_norm=True)
    few = average(
        checkpoints, make_val_set(tmp_path / "few.npz", count=60), output=tmp_path / "few", method="uniform",
        task_options={"batch_size": 30},
    )  # fmt: skip
    assert any("30 examples, 480 values per channel" in warning for warning in few.warnings)
    more = average(
        checkpoints, make_val_set(tmp_path / "more.npz", count=64), output=tmp_path / "more", method="uniform",
        task_options={"batch_size": 32},
    )  # fmt: skip
    assert not more.warnings


def test_so_few_examples_that_losses_say_nothing_leave_statistics_averaged_with_a_warning(tmp_path: Path) -> None:
    checkpoints = make_checkpoints(tmp_path / "checkpoints", batch_norm=True)
    outcome = average(
        checkpoints, make_val_set(tmp_path / "val.npz", count=30), output=tmp_path / "out", method="uniform",
        task_options={"batch_size": 15},
    )  # fmt: skip
    assert any("only 15 examples" in warning for warning in outcome.warnings)
    report = json.loads((tmp_path / "out" / "report.json").read_text())["statistics"]
    assert (report["mixtures"], report["fit_loss"]) == ("averaged", {})


def test_a_train_set_recomputes_and_the_fit_split_still_decides(tmp_path: Path) -> None:
    checkpoints = make_checkpoints(tmp_path / "checkpoints", batch_norm=True)
    shift_statistics(checkpoints, 30.0)
    val = make_val_set(tmp_path / "val.npz", count=200)
    train = make_val_set(tmp_path / "train.npz", count=600, start=0)
    said = []
    for name, use in (("batchnorm", "batchnorm"), ("coefficients", "coefficients")):
        average(
            checkpoints, val, output=tmp_path / name, method="uniform", train_set=train, train_set_use=use,
        )  # fmt: skip
        said.append(json.loads((tmp_path / name / "report.json").read_text())["statistics"])
    assert said[0] == said[1]
    assert (said[0]["mixtures"], said[0]["examples"]) == ("recomputed", 600)


def test_the_select_split_has_no_say(tmp_path: Path) -> None:
    """The same fit images, and other select images: the same losses."""
    checkpoints = make_checkpoints(tmp_path / "checkpoints", batch_norm=True)
    images, labels = (each.numpy() for each in digits())
    said = []
    for name, others in (("one", slice(0, 200)), ("other", slice(200, 400))):
        fit, select = slice(700, 900), others
        fit_indices, select_indices = split(400, 0.5, 0)
        arranged = {"images": np.empty((400, *images.shape[1:]), images.dtype), "labels": np.empty(400, labels.dtype)}
        for key, values in (("images", images), ("labels", labels)):
            arranged[key][fit_indices.numpy()] = values[fit]
            arranged[key][select_indices.numpy()] = values[select]
        np.savez(tmp_path / f"{name}.npz", **arranged)
        average(checkpoints, tmp_path / f"{name}.npz", output=tmp_path / name, method="uniform")
        said.append(json.loads((tmp_path / name / "report.json").read_text())["statistics"])
    assert said[0] == said[1]


def test_a_single_checkpoint_keeps_its_own_statistics_whatever_is_chosen(tmp_path: Path) -> None:
    checkpoints = make_checkpoints(tmp_path / "checkpoints", batch_norm=True)
    shift_statistics(checkpoints, 30.0)
    average(checkpoints, make_val_set(tmp_path / "val.npz"), output=tmp_path / "out", method="uniform")
    state = candidate_state(tmp_path / "out", checkpoints, "best")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    best = next(row for row in report["candidates"] if row["method"] == "best")
    assert best["statistics"] == "own"
    assert next(row for row in report["candidates"] if row["method"] == "uniform")["statistics"] == "recomputed"
    own = load_file(checkpoints / next(name for name in report["geometry"]["order"] if name in best["label"]))
    assert all(torch.equal(state[name], tensor) for name, tensor in own.items())


def test_a_job_that_only_picks_a_checkpoint_places_no_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ladle_engine.placements.model_weights import ModelWeights

    def no_placement(*given: Any) -> None:
        raise AssertionError("directions were opened")

    monkeypatch.setattr(ModelWeights, "placement", no_placement)
    checkpoints = make_checkpoints(tmp_path / "checkpoints", batch_norm=True)
    average(
        checkpoints, make_val_set(tmp_path / "val.npz"), output=tmp_path / "out",
        method_options={"methods": ["best", "second-best"]},
    )  # fmt: skip
    assert json.loads((tmp_path / "out" / "report.json").read_text())["statistics"]["mixtures"] == "none"


def test_models_without_batch_norm_and_batches_of_one_leave_nothing_to_choose(tmp_path: Path) -> None:
    plain = write_checkpoints(tmp_path / "plain", plain_net)
    normed = write_checkpoints(tmp_path / "normed", norm_net)
    assert isinstance(chooser(plain, examples_of(plain_net, 64)).choose().policy, NoStatistics)
    choice = chooser(normed, examples_of(norm_net, 64, batch_size=1)).choose()
    assert isinstance(choice.policy, AveragedStatistics)
    assert not choice.losses
    assert set(chooser(normed, examples_of(norm_net, 64)).choose().losses) == {"averaged", "recomputed"}


def test_the_choice_is_kept_for_a_resumed_job(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path / "checkpoints", norm_net)
    state = ResumeState(tmp_path / "state", "same")
    first = chooser(checkpoints, examples_of(norm_net, 64), state).choose()

    def not_again() -> None:
        raise AssertionError("it is known")

    again = chooser(checkpoints, examples_of(norm_net, 64), state, load_mean=not_again).choose()
    assert again.to_json() == first.to_json()
    assert type(again.policy) is type(first.policy)


@pytest.mark.parametrize("wrong_by", [30.0, 0.0])
def test_a_job_that_dies_within_training_ends_with_the_same_bits_and_rebuilds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong_by: float
) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, linear_norm)
    shift_statistics(folder, wrong_by)

    def run(name: str) -> Path:
        average(
            folder, folder, output=tmp_path / name, task=ToyTask(linear_norm), method="twa-layerwise",
            method_options={"steps": 8}, state_dir=tmp_path / "states" / name.partition(" ")[0],
        )  # fmt: skip
        return tmp_path / name

    whole = run("whole")
    for dies_at in (0, 3):
        with monkeypatch.context() as patched:
            Saves(patched, dies_at=dies_at)
            with pytest.raises(Interrupted):
                run(f"died-{dies_at}")
        resumed = run(f"died-{dies_at} resumed")
        for file in ("model.safetensors", "statistics.safetensors"):
            assert_same_tensors(resumed / file, whole / file)
        assert (resumed / "coefficients.json").read_bytes() == (whole / "coefficients.json").read_bytes()
        reports = [json.loads((each / "report.json").read_text()) for each in (whole, resumed)]
        assert reports[0]["statistics"] == reports[1]["statistics"]
    assert_same_tensors(
        rebuild(whole, folder, output=tmp_path / "again") / "model.safetensors", whole / "model.safetensors"
    )


def assert_same_tensors(one: Path, other: Path) -> None:
    tensors, expected = load_file(one), load_file(other)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())


def test_a_loss_that_is_no_number_is_never_the_lower_one(tmp_path: Path) -> None:
    assert lowest({"averaged": float("nan"), "recomputed": 5.0}) == "recomputed"
    assert lowest({"averaged": 5.0, "recomputed": float("nan")}) == "averaged"
    assert lowest({"averaged": 1.0, "recomputed": 1.0}) == "recomputed"
    policy = NoStatistics(bind(plain_net(), write_checkpoints(tmp_path, plain_net)))
    report = StatisticsChoice(policy=policy, losses={"averaged": float("inf")}).to_json()
    assert report["fit_loss"] == {"averaged": None}


class SpyMode(ToyTask):
    """Notes which mode the model's modules are in while coefficients are trained and while it is judged."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.Sequential(linear_norm(), nn.Dropout(0.5)), count=1200)
        self.trained: list[tuple[bool, bool]] = []
        self.judged: set[tuple[bool, bool]] = set()

    def loss(self, model: Any, batch: Batch) -> Tensor:
        self.trained.append((model[0][1].training, model[1].training))
        return super().loss(model, batch)

    def evaluate(self, model: Any, batch: Batch) -> Mapping[str, Tensor]:
        self.judged.add((model[0][1].training, model[1].training))
        return super().evaluate(model, batch)


@pytest.mark.parametrize(("wrong_by", "on_batch_statistics"), [(30.0, True), (0.0, False)])
def test_coefficients_are_trained_on_the_statistics_that_will_be_used_and_without_dropout(
    tmp_path: Path, wrong_by: float, on_batch_statistics: bool
) -> None:
    task = SpyMode()
    write_checkpoints(tmp_path / "checkpoints", task.build)
    shift_statistics(tmp_path / "checkpoints", wrong_by)
    average(
        tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=task, method="twa",
        method_options={"steps": 3},
    )  # fmt: skip
    # Before that come two trial steps.
    assert task.trained[-3:] == [(on_batch_statistics, False)] * 3
    # BatchNorm is in training mode only while its statistics are recomputed.
    assert task.judged == {(False, False), (True, False)}


# Recomputing


class SortedData(ToyData):
    """As a folder of classes is read: one kind after the other."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        order = self.x[:, 0].argsort()
        self.x, self.y = self.x[order], self.y[order]


def test_statistics_of_sorted_data_are_those_of_shuffled_data(tmp_path: Path) -> None:
    """Batch by batch in order, each of another kind, the variance would lack what the kinds differ by."""
    checkpoints = write_checkpoints(tmp_path, norm_net)
    binding = bind(norm_net(), checkpoints)
    examples = replace(examples_of(norm_net, 3000, batch_size=64), data=SortedData(3000))
    statistics = RecomputedStatistics(checkpoints, binding, examples, SingleProcess())
    binding.load(checkpoints.reference)
    made = statistics.recompute(*uniform(checkpoints, binding))
    assert statistics.num_examples == MAX_EXAMPLES
    with torch.no_grad():
        seen = binding.model[0](SortedData(3000).x)  # type: ignore[index]  # a Sequential
    torch.testing.assert_close(made["1.running_var"], seen.var(dim=0), rtol=0.1, atol=0.0)
    torch.testing.assert_close(made["1.running_mean"], seen.mean(dim=0), rtol=0.0, atol=0.1)


class Twice(nn.Module):
    """One BatchNorm for two branches, and one for a branch that only training has."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(8, 1)
        self.norm, self.aside = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.cat([self.norm(self.left(x)), self.norm(self.right(x))], dim=1))
        return out


def test_a_batch_norm_that_is_called_twice_has_the_mean_of_both_and_one_that_is_not_called_keeps_the_average(
    tmp_path: Path,
) -> None:
    checkpoints = write_checkpoints(tmp_path, Twice)
    binding = bind(Twice(), checkpoints)
    statistics = RecomputedStatistics(checkpoints, binding, examples_of(Twice, 64, batch_size=16), SingleProcess())
    binding.load(checkpoints.reference)
    made = statistics.recompute(*uniform(checkpoints, binding))
    model, x = binding.model, ToyData(64).x
    assert isinstance(model, Twice)
    with torch.no_grad():
        both = torch.cat([model.left(x), model.right(x)])
    torch.testing.assert_close(made["norm.running_mean"], both.mean(dim=0), rtol=0, atol=1e-5)
    averaged = AveragedStatistics(checkpoints, binding).recompute(*uniform(checkpoints, binding))
    for name in ("aside.running_mean", "aside.running_var"):
        assert torch.equal(made[name], averaged[name])
    assert statistics.values_per_channel == 2 * 64


def test_recomputed_statistics_depend_on_nothing_that_went_before(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, norm_net)
    binding = bind(norm_net(), checkpoints)
    statistics = RecomputedStatistics(checkpoints, binding, examples_of(norm_net, 64), SingleProcess())
    binding.load(checkpoints.reference)
    first = statistics.recompute(*uniform(checkpoints, binding))
    binding.load(checkpoints.checkpoints[0])
    statistics.recompute(*uniform(checkpoints, binding))
    binding.load(checkpoints.reference)
    again = statistics.recompute(*uniform(checkpoints, binding))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert all(module.momentum == 0.1 for module in batch_norms(binding.model))
    assert not any(module.training for module in binding.model.modules())


def test_instance_norms_that_keep_running_statistics_are_recomputed_too(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten(), nn.Linear(6, 1)
        )

    checkpoints = write_checkpoints(tmp_path, build)
    binding = bind(build(), checkpoints)
    statistics = RecomputedStatistics(checkpoints, binding, examples_of(build, 50), SingleProcess())
    made = statistics.recompute(*uniform(checkpoints, binding))
    x = ToyData(50).x.view(50, 2, 3)
    torch.testing.assert_close(made["1.running_mean"], x.mean(dim=(0, 2)))
    torch.testing.assert_close(made["1.running_var"], x.var(dim=2).mean(dim=0))
    assert statistics.values_per_channel == 150


# Other running state


def mixture(
    tmp_path: Path, build: Callable[[], nn.Module], alpha: list[float], **own: list[Any]
) -> tuple[dict[str, Tensor], nn.Module, CheckpointSet]:
    """What a job writes for these coefficients of three checkpoints, which have what `own` says of their buffers."""
    checkpoints = write_checkpoints(tmp_path / "checkpoints", build, count=3)
    for number in range(3):
        path = tmp_path / "checkpoints" / f"step-{number}.safetensors"
        save_file(load_file(path) | {name.replace("__", "."): values[number] for name, values in own.items()}, path)
    average(
        tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=ToyTask(build), method="given",
        method_options={"coefficients": alpha},
    )  # fmt: skip
    state = candidate_state(tmp_path / "out", tmp_path / "checkpoints", "given")
    model = build()
    model.load_state_dict(state)
    return state, model.eval(), checkpoints


def hooked() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 1))


def parametrized() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 1))


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 3)),
        nn.utils.parametrizations.spectral_norm(nn.ConvTranspose1d(2, 4, 3)),
        nn.Flatten(),
        nn.Linear(20, 1),
    )


@pytest.mark.parametrize("build", [hooked, parametrized, transposed])
def test_a_mixtures_spectral_norm_is_that_of_its_own_weight(tmp_path: Path, build: Callable[[], nn.Module]) -> None:
    """A mean of singular vectors, some of which point the other way, would scale the weight by anything."""
    state, model, _ = mixture(tmp_path, build, [0.8, -0.5, 0.7])
    where = 1 if build is transposed else 0
    with torch.no_grad():
        model(torch.zeros(1, 6))
    weight = model[where].weight.detach()  # type: ignore[index,union-attr,operator]  # a Sequential
    matrix = (weight.movedim(1, 0) if build is transposed else weight).flatten(1)
    assert torch.linalg.matrix_norm(matrix, ord=2).item() == pytest.approx(1.0, abs=0.01)
    vectors = [tensor for name, tensor in state.items() if name.endswith(("_u", "_v"))]
    assert len(vectors) == 2
    assert all(vector.norm().item() == pytest.approx(1.0, abs=1e-5) for vector in vectors)


def test_coefficients_are_trained_with_the_spectral_norm_of_the_weights_they_make(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", hooked)
    largest: list[float] = []

    class Watching(ToyTask):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            loss = super().loss(model, batch)
            largest.append(torch.linalg.matrix_norm(model[0].weight.detach(), ord=2).item())  # type: ignore[index,union-attr,arg-type]
            return loss

    average(
        tmp_path / "checkpoints", tmp_path, output=tmp_path / "out", task=Watching(hooked), method="twa",
        method_options={"steps": 12},
    )  # fmt: skip
    # Steps before that try the model with weights that are drawn.
    assert largest[-12:] == [pytest.approx(1.0, abs=0.02)] * 12


class Codebook(nn.Module):
    """A vector quantiser that follows its inputs by moving averages while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 4)
        self.register_buffer("ema_w", torch.zeros(3, 4))
        self.register_buffer("cluster_size", torch.ones(3))
        self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.cluster_size += 1
        codes = self.ema_w / self.cluster_size[:, None]
        out: Tensor = self.head(self.embed(x) + codes.mean(dim=0))
        return out


def test_moving_averages_of_a_codebook_are_averaged_and_do_not_follow_the_examples(tmp_path: Path) -> None:
    sizes = [torch.full((3,), value) for value in (1.0, 2.0, 6.0)]
    state, _, _ = mixture(tmp_path, Codebook, [0.5, -0.5, 1.0], cluster_size=sizes)
    # Weights below zero count as zero: a size cannot be negative.
    torch.testing.assert_close(state["cluster_size"], torch.full((3,), (0.5 * 1 + 1.0 * 6) / 1.5))


class Renorm(nn.Module):
    """Keeps running statistics and is none of torch's modules."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(6, 4), nn.Linear(4, 1)
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_std", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head((self.linear(x) - self.running_mean) / self.running_std)
        return out


def test_running_statistics_of_an_unknown_module_are_averaged(tmp_path: Path) -> None:
    stds = [torch.full((4,), value) for value in (1.0, 2.0, 3.0)]
    state, _, _ = mixture(tmp_path, Renorm, [0.5, 0.5, 0.0], running_std=stds)
    torch.testing.assert_close(state["running_std"], torch.full((4,), 1.5))


class Quantiser(nn.Module):
    """As torch's and others' fake quantisers keep their state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("observer_enabled", torch.zeros(1, dtype=torch.uint8))
        self.observer = nn.Module()
        self.observer.register_buffer("min_val", torch.zeros(()))
        self.observer.register_buffer("max_val", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, 0, 255)


def quantised() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), Quantiser(), nn.Linear(4, 1))


QUANTISERS: Mapping[str, list[Any]] = {
    "1__scale": [torch.tensor([value]) for value in (0.1, 0.2, 0.05)],
    # Those that differ are refused before, as the codes of quantised weights are.
    "1__zero_point": [torch.tensor([100], dtype=torch.int32)] * 3,
    "1__observer_enabled": [torch.zeros(1, dtype=torch.uint8)] * 3,
    "1__observer__min_val": [torch.tensor(value) for value in (-12.8, -12.8, -5.0)],
    "1__observer__max_val": [torch.tensor(value) for value in (12.7, 38.2, 7.75)],
}


def test_a_quantisers_scale_zero_point_and_range_are_those_of_one_file(tmp_path: Path) -> None:
    state, _, _ = mixture(tmp_path, quantised, [0.5, 0.3, 0.2], **QUANTISERS)
    for name, values in QUANTISERS.items():
        assert torch.equal(state[name.replace("__", ".")], values[2]), name


def test_a_quantiser_that_would_follow_the_examples_it_is_judged_on_is_refused_by_name(tmp_path: Path) -> None:
    on = [torch.tensor([value], dtype=torch.uint8) for value in (0, 1, 0)]
    with pytest.raises(TaskError, match=r"`1\.observer_enabled` must be 0, but is 1 in `step-1\.safetensors`"):
        mixture(tmp_path, quantised, [0.5, 0.3, 0.2], **{**QUANTISERS, "1__observer_enabled": on})


def test_torchs_fake_quantisers_are_known(tmp_path: Path) -> None:
    quantization = pytest.importorskip("torch.ao.quantization")

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), quantization.FakeQuantize(), nn.Linear(4, 1))

    checkpoints = write_checkpoints(tmp_path, build, count=2)
    binding = bind(build(), checkpoints)
    from ladle_engine.model.quantisers import quantiser_buffers

    known = {id(buffer) for buffer in quantiser_buffers(binding.model)}
    assert all(id(buffer) in known for name, buffer in binding.statistics.items() if name.startswith("1."))
    assert any(name.endswith("observer_enabled") for name in binding.counters)


def test_a_lazy_batch_norm_that_no_input_has_shaped_is_refused_by_name(tmp_path: Path) -> None:
    checkpoints = write_checkpoints(tmp_path, norm_net)

    def lazy() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.LazyBatchNorm1d(), nn.Tanh(), nn.Linear(8, 1))

    with pytest.raises(TaskError, match=r"the tensor `1\.weight`, whose shape no input has given yet"):
        bind(lazy(), checkpoints)
    model = lazy()
    model(torch.zeros(2, 6))
    assert set(bind(model, checkpoints).statistics) == {"1.running_mean", "1.running_var"}

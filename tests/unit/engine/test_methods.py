"""Methods by name: what they choose, from where they start, and what bad options get."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.func import functional_call

from ladle_engine import METHODS, MethodError, Outcome, average, candidate_state
from ladle_engine.checkpoints import discover
from ladle_engine.coefficients import RandomPart
from ladle_engine.methods import twa
from ladle_engine.methods.fixed import SHORTEST_MEMORY, decays
from ladle_engine.methods.trained import OWN_MOVES, WHOLE_MOVES
from ladle_engine.methods.twa import TwaOptions
from ladle_engine.model.binding import bind
from ladle_engine.model.groups import GROUPINGS
from ladle_engine.progress import ignore
from ladle_engine.random_signs import random_signs
from ladle_engine.subspace.bases import BASES, gram_schmidt, principal
from ladle_engine.subspace.first_reading import measure
from ladle_engine.tasks.examples import split
from ladle_engine.training.batch_order import BatchOrder
from ladle_engine.training.settings import TrainSettings
from ladle_engine.training.train import Trained
from ladle_engine.training.trainer import Trainer
from tests.unit.engine.toy import ToyTask, plain_net, trainer_for, write_checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    return tmp_path


def run(folder: Path, name: str, method: str, options: dict[str, Any] | None = None, **more: Any) -> Outcome:
    return average(
        folder / "checkpoints",
        more.pop("val_set", folder),
        output=folder / name,
        task=more.pop("task", ToyTask(plain_net)),
        method=method,
        method_options=options or {},
        **more,
    )


def alpha_of(folder: Path, name: str, method: str) -> Tensor:
    """float64 K x G."""
    entry = json.loads((folder / name / "coefficients.json").read_text())["candidates"][method]
    return torch.tensor(entry["alpha"], dtype=torch.float64)


def flat_directions(folder: Path) -> Tensor:
    """float64 K x D."""
    files = sorted((folder / "checkpoints").glob("*.safetensors"))
    weights_KD = torch.stack([torch.cat([t.double().reshape(-1) for t in load_file(file).values()]) for file in files])
    return weights_KD - weights_KD.mean(dim=0)


@pytest.mark.parametrize("grouping", ["model", "layers"])
@pytest.mark.parametrize("basis", BASES)
def test_psgd_in_weight_space_equals_sgd_with_momentum_on_coefficients(folder: Path, basis: str, grouping: str) -> None:
    # In units of the whole model's weights, small layers take long steps.
    rate = 0.02 if basis == "normalised" else 0.2
    options = {"basis": basis, "groups": grouping, "learning_rate": rate, "momentum": 0.8, "schedule": "cosine"}
    run(folder, "weights", "psgd", options)
    run(folder, "coefficients", "twa", PUBLISHED | options)
    in_weights, in_coefficients = alpha_of(folder, "weights", "psgd"), alpha_of(folder, "coefficients", "twa")
    assert (in_coefficients - 1 / 5).abs().max() > 0.05
    torch.testing.assert_close(in_weights, in_coefficients, rtol=0, atol=1e-5)


PUBLISHED = {"optimiser": "sgd", "prior": None, "averaged_fraction": 0.0, "rescale": False, "shared": False}


def test_the_published_algorithm_is_a_choice_of_options(folder: Path) -> None:
    """Algorithm 1 as the journal has it: unit directions, SGD with momentum on beta, a penalty, a constant rate."""
    rate, decay, momentum, steps, batch_size, seed = 0.4, 0.01, 0.9, 40, 8, 5
    directions_KD = flat_directions(folder)
    lengths_K = directions_KD.norm(dim=1)
    unit_KD = directions_KD / lengths_K[:, None]
    files = sorted((folder / "checkpoints").glob("*.safetensors"))
    states = [{name: tensor.double() for name, tensor in load_file(file).items()} for file in files]
    centre_D = torch.stack([torch.cat([t.reshape(-1) for t in state.values()]) for state in states]).mean(dim=0)
    sizes, shapes = [t.numel() for t in states[0].values()], [t.shape for t in states[0].values()]
    model, task = plain_net().double(), ToyTask(plain_net, batch_size=batch_size)
    data = task.open_data(folder, discover(folder / "checkpoints"))
    fit, _ = split(len(data), 0.5, seed)
    order, beta_K, speed_K = BatchOrder(len(fit), batch_size, seed), torch.zeros(5, dtype=torch.float64), 0.0
    for step in range(steps):
        weights_D = (centre_D + beta_K @ unit_KD).requires_grad_()
        parts = weights_D.split(sizes)
        weights = {name: part.view(shape) for name, part, shape in zip(states[0], parts, shapes, strict=True)}
        batch = data.batch(fit[order.batch(step)])
        ((functional_call(model, weights, batch["x"].double()) - batch["y"].double()) ** 2).mean().backward()
        speed_K = momentum * speed_K + unit_KD @ weights_D.grad + decay * beta_K
        beta_K = beta_K - rate * speed_K
    expected_K = beta_K / lengths_K + (1 - (beta_K / lengths_K).sum()) / 5
    assert (expected_K - 1 / 5).abs().max() > 0.05

    squared = float(lengths_K.square().mean())
    options = PUBLISHED | {"basis": "normalised", "steps": steps, "momentum": momentum}
    options |= {"learning_rate": rate / squared, "l2": decay * squared}
    run(folder, "out", "twa", options, task=task, seed=seed)
    torch.testing.assert_close(alpha_of(folder, "out", "twa")[:, 0], expected_K, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["twa", "twa-layerwise"])
def test_every_basis_by_name_leads_to_a_lower_loss_in_the_same_span(folder: Path, method: str) -> None:
    alphas = {}
    for basis in BASES:
        run(folder, basis, method, {"basis": basis})
        report = json.loads((folder / basis / "report.json").read_text())
        (losses,) = (row["curve"] for row in report["candidates"] if row["method"] == method)
        assert sum(losses[-5:]) < sum(losses[:5])
        alphas[basis] = alpha_of(folder, basis, method)
        torch.testing.assert_close(alphas[basis].sum(dim=0), torch.ones_like(alphas[basis][0]))
    assert not torch.allclose(alphas["axes"], alphas["normalised"], atol=1e-3)
    assert not torch.allclose(alphas["axes"], alphas["lengths"], atol=1e-3)


@pytest.mark.parametrize("grouping", ["model", "layers", "tensors"])
def test_the_gram_schmidt_basis_is_orthogonal_to_1e_6_where_the_published_loop_is_not(
    tmp_path: Path, grouping: str
) -> None:
    """Consecutive checkpoints of a long run: almost parallel directions, which is where subtraction loses digits."""
    generator = torch.Generator().manual_seed(0)
    base = {name: tensor.clone() for name, tensor in plain_net().state_dict().items()}
    drift = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
    (tmp_path / "checkpoints").mkdir()
    for step in range(12):
        moved = {
            name: base[name] + step * drift[name] + 1e-2 * torch.randn(base[name].shape, generator=generator)
            for name in base
        }
        save_file(moved, tmp_path / "checkpoints" / f"step-{step:02}.safetensors")
    checkpoints = discover(tmp_path / "checkpoints")
    binding = bind(plain_net(), checkpoints)
    groups = GROUPINGS[grouping](binding)
    geometry = measure(checkpoints, binding, ignore)
    basis_GKM = gram_schmidt(geometry, groups).matrix_GKM / geometry.scale_G(groups)[:, None, None]
    directions_KD = flat_directions(tmp_path)
    position = 0
    spans: list[list[slice]] = [[] for _ in groups.names]
    for name, tensor in load_file(tmp_path / "checkpoints" / "step-00.safetensors").items():
        spans[groups.of[name]].append(slice(position, position + tensor.numel()))
        position += tensor.numel()
    for g, slices in enumerate(spans):
        own_KP = torch.cat([directions_KD[:, part] for part in slices], dim=1)
        vectors_MP = basis_GKM[g].T @ own_KP
        used = vectors_MP.norm(dim=1) > 0
        assert 1 <= int(used.sum()) <= min(11, own_KP.shape[1])
        inner = vectors_MP[used] @ vectors_MP[used].T
        assert (inner - torch.eye(len(inner), dtype=torch.float64)).abs().max() < 1e-6
    published = published_gram_schmidt(directions_KD.float())
    lost = (published @ published.T - torch.eye(len(published))).abs().max()
    assert lost > 1e-4, "the published float32 loop must lose it here, or this test shows nothing"


def published_gram_schmidt(vectors_KD: Tensor) -> Tensor:
    """One vector after the other minus its projections on those before, float32, as the paper's code does."""
    basis: list[Tensor] = []
    for vector in vectors_KD[:-1]:
        rest = vector.clone()
        for known in basis:
            rest = rest - (vector @ known) * known
        basis.append(rest / rest.norm())
    return torch.stack(basis)


def test_principal_components_are_those_of_a_singular_value_decomposition(folder: Path) -> None:
    checkpoints = discover(folder / "checkpoints")
    binding = bind(plain_net(), checkpoints)
    groups = GROUPINGS["model"](binding)
    geometry = measure(checkpoints, binding, ignore)
    directions_KD = flat_directions(folder)
    _, _, components_DD = torch.linalg.svd(directions_KD, full_matrices=False)
    for dimensions in (1, 3, None):
        basis_KM = principal(geometry, groups, dimensions).matrix_GKM[0] / geometry.scale_G(groups)
        vectors_MD = basis_KM.T @ directions_KD
        expected = components_DD[: dimensions or 4]
        assert vectors_MD.shape == expected.shape, "centred directions have rank K - 1"
        torch.testing.assert_close((vectors_MD * expected).sum(dim=1).abs(), torch.ones(len(expected)).double())


def test_random_signs_are_the_same_in_parts_and_have_no_bias() -> None:
    whole = random_signs(seed=3, draw=0, row=1, name="layer.weight", start=0, length=5000)
    assert set(whole.tolist()) == {-1.0, 1.0}
    assert abs(float(whole.mean())) < 0.06
    for start, length in ((0, 1), (255, 2), (256, 300), (777, 4000), (4999, 1)):
        part = random_signs(seed=3, draw=0, row=1, name="layer.weight", start=start, length=length)
        assert torch.equal(part, whole[start : start + length])
    for other in ({"seed": 4}, {"draw": 1}, {"row": 2}, {"name": "layer.bias"}):
        same = {"seed": 3, "draw": 0, "row": 1, "name": "layer.weight", "start": 0, "length": 5000, **other}
        assert abs(float((whole * random_signs(**same)).mean())) < 0.06  # type: ignore[arg-type]  # a mixed mapping


@pytest.mark.parametrize("options", [{}, {"groups": "layers"}, {"redraw": True}], ids=str)
def test_random_bases_lower_the_loss_and_rebuild_from_their_seed(folder: Path, options: dict[str, Any]) -> None:
    outcome = run(folder, "out", "random", {"steps": 30, "dimensions": 6, "prior": None, **options})
    scores = {score.method: score for score in outcome.candidates}
    saved = json.loads((folder / "out" / "coefficients.json").read_text())["candidates"]["random"]
    weights_TMG = RandomPart.from_json(saved["random"]).weights_TMG
    assert weights_TMG.shape == (30 if "redraw" in options else 1, 6, 2 if "groups" in options else 1)
    state = candidate_state(folder / "out", folder / "checkpoints", "random")
    model = plain_net()
    model.load_state_dict(state)
    task = ToyTask(plain_net)
    data = task.open_data(folder, discover(folder / "checkpoints"))
    report = json.loads((folder / "out" / "report.json").read_text())
    fit, select = split(len(data), 0.5, report["splits"]["seed"])
    # What was judged is what is rebuilt.
    for name, indices in (("fit", fit), ("select", select)):
        with torch.no_grad():
            loss = float(task.evaluate(model, data.batch(indices))["loss"].mean())
        assert loss == pytest.approx(getattr(scores["random"], name)["loss"], abs=1e-6)
    uniform = run(folder, "mean", "uniform")
    before = next(score for score in uniform.candidates if score.method == "uniform").fit["loss"]
    assert scores["random"].fit["loss"] < before


def test_training_starts_at_the_centre_a_checkpoint_or_another_method(folder: Path) -> None:
    barely = {"steps": 1, "learning_rate": 1e-9}
    for start in ("centre", "step-2.safetensors", "greedy-soup", "last-k"):
        run(folder, start, "twa-layerwise", {**barely, "start": start})
        alpha_KG = alpha_of(folder, start, "twa-layerwise")
        if start == "centre":
            expected_K = torch.full((5,), 0.2, dtype=torch.float64)
        elif start.startswith("step"):
            expected_K = torch.eye(5, dtype=torch.float64)[2]
        else:
            run(folder, f"only-{start}", start)
            expected_K = alpha_of(folder, f"only-{start}", start)[:, 0]
        torch.testing.assert_close(alpha_KG, expected_K[:, None].expand(5, 2), rtol=0, atol=1e-8)


def test_the_select_split_picks_how_far_a_result_goes(folder: Path) -> None:
    """The same by hand: every multiple of what was trained, as given coefficients."""
    options = {"steps": 12, "learning_rate": 0.5}
    run(folder, "rescaled", "twa-layerwise", options)
    run(folder, "as-trained", "twa-layerwise", {**options, "rescale": False})
    move_KG = alpha_of(folder, "as-trained", "twa-layerwise") - 1 / 5
    mean_K1 = move_KG.mean(dim=1, keepdim=True)
    number = itertools.count()

    def moved(whole: float, own: float) -> Tensor:
        return 1 / 5 + whole * (mean_K1 + own * (move_KG - mean_K1))

    def select_loss(whole: float, own: float) -> float:
        given = {"coefficients": moved(whole, own).T.tolist(), "groups": "layers"}
        scores = run(folder, f"given-{next(number)}", "given", given).candidates
        return next(score.select["loss"] for score in scores if score.method == "given")

    whole = min(WHOLE_MOVES, key=lambda whole: select_loss(whole, 1.0))
    own = min(OWN_MOVES, key=lambda own: select_loss(whole, own))
    assert (whole, own) != (1.0, 1.0), "the rate must be large enough to go too far"
    torch.testing.assert_close(alpha_of(folder, "rescaled", "twa-layerwise"), moved(whole, own), rtol=0, atol=1e-12)


def test_the_soup_that_a_job_has_made_already_is_where_it_starts(folder: Path) -> None:
    options = {
        "methods": ["last-k", "twa"],
        "options": {"last-k": {"k": 2}, "twa": {"start": "last-k", "steps": 1, "learning_rate": 1e-9}},
    }
    run(folder, "out", "auto", options)
    torch.testing.assert_close(alpha_of(folder, "out", "twa"), alpha_of(folder, "out", "last-k"), rtol=0, atol=1e-8)


def test_a_method_to_start_from_runs_once_with_the_jobs_options_also_after_a_crash(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`twa` runs before `twa-layerwise`, from where that one will be; neither trains for the other's options."""
    runs: list[str] = []
    run_training = twa.train

    def counting(trainer: Trainer, subspace: Any, settings: TrainSettings) -> Trained:
        runs.append(f"{trainer.method} {settings.steps}")
        return run_training(trainer, subspace, settings)

    monkeypatch.setattr(twa, "train", counting)
    options = {
        "methods": ["twa", "twa-layerwise"],
        "options": {
            "twa": {"start": "twa-layerwise", "steps": 1, "learning_rate": 1e-9, "groups": "layers"},
            "twa-layerwise": {"steps": 7, "learning_rate": 0.3},
        },
    }
    for name in ("out", "again"):
        run(folder, name, "auto", options, state_dir=tmp_path / "state", val_set=folder / "checkpoints")
        one, other = alpha_of(folder, name, "twa"), alpha_of(folder, name, "twa-layerwise")
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)
    assert runs == ["twa-layerwise 7", "twa 1"]


@pytest.mark.parametrize(
    ("method", "options"),
    [("twa", {}), ("psgd", {}), ("random", {"redraw": True}), ("random", {})],
    ids=str,
)
def test_a_loss_that_explodes_is_refused_and_under_auto_left_out(
    folder: Path, method: str, options: dict[str, Any]
) -> None:
    options |= {"learning_rate": 1e30}
    with pytest.raises(MethodError, match=rf"`{method}` must be finite.* at step \d+ of 40 the loss is") as caught:
        run(folder, "out", method, options)
    assert caught.value.code == "non-finite-loss"
    outcome = run(folder, "out", "auto", {"methods": ["uniform", method], "options": {method: options}})
    assert [score.method for score in outcome.candidates] == ["best", "uniform"]
    assert any(f"`{method}` was left out" in warning for warning in outcome.warnings)


def test_an_average_that_the_outputs_type_cannot_hold_is_left_out(folder: Path) -> None:
    """Weights far outside of the checkpoints, as unlucky training may find them."""
    far = {"coefficients": [1e9, -1e9, 0.0, 0.0, 1.0]}
    with pytest.raises(MethodError, match=r"`0\.weight` of the average is too large") as caught:
        run(folder, "out", "given", far, dtype="float16")
    assert caught.value.code == "non-finite-loss"
    outcome = run(folder, "out", "auto", {"methods": ["uniform", "given"], "options": {"given": far}}, dtype="float16")
    assert [score.method for score in outcome.candidates] == ["best", "uniform"]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("uniform", {"k": 2}, "`k` must be an option of method `uniform`, but it has no such option. It has: none."),
        ("twa", {"stepz": 2}, "`stepz` must be an option of method `twa`"),
        ("last-k", {"k": 6}, "`k` of method `last-k` must be at most the number of checkpoints (5), but is 6."),
        ("twa", {"groups": "blocks"}, "`groups` must be model, layers, tensors, a number or a list of regular"),
        (
            "twa",
            {"groups": ["0", "attention"]},
            "only patterns that match a parameter no earlier one does, but is `attention`",
        ),
        ("twa", {"groups": ["("]}, "`groups` must have regular expressions that parse, but is `(`"),
        ("twa", {"groups": 5}, "`groups` must be from 1 to the number of tensors (4), but is 5."),
        (
            "twa",
            {"start": "the beginning"},
            "`start` of method `twa` must be centre, auto, the name of a checkpoint, or one of",
        ),
        (
            "twa",
            {"start": "twa"},
            "`start` of method `twa` must be centre, auto, the name of a checkpoint, or another method, but",
        ),
        ("twa", {"start": "step-2"}, "but is `step-2`. Did you mean `step-2.safetensors`?"),
        ("twa", {"start": "given"}, "Method `twa` starts from `given`, whose options go into `options` of `auto`."),
        (
            "auto",
            {
                "methods": ["learned-soup"],
                "options": {"learned-soup": {"start": "given"}, "given": {"coefficients": [1.2, -0.2, 0, 0, 0]}},
            },
            "`start` of method `learned-soup` must not have negative coefficients, but `given` has -0.2.",
        ),
        ("twa", {"optimizer": "sgd"}, "Did you mean `optimiser`?"),
        ("twa", {"speed_up": 0.01}, "`speed_up` of method `twa` must be at least 1.0, but is 0.01."),
        ("twa", {"prior": 1e200}, "`prior` of method `twa` must be at most 1000000.0, but is 1e+200."),
        (
            "twa",
            {"learning_rate": 10**400},
            "`learning_rate` of method `twa` must be a finite number that float64 can hold",
        ),
        ("twa", ["steps"], "The options of method `twa` must be given by name, but are ['steps']."),
        ("twa", {"groups": []}, "`groups` must have at least one pattern, but is an empty list."),
        ("random", {"redraw": True, "l2": 9.0}, "`l2` of method `random` must be left out with `redraw`"),
        (
            "random",
            {"dimensions": 10**7},
            "`dimensions` of method `random` must be at most the number of parameters (65)",
        ),
        (
            "given",
            {"coefficients": {"step-9": 1.0}},
            "name each of the 5 checkpoints, but are also for `step-9`, which is not one of",
        ),
        ("given", {"coefficients": [10**400, 0, 0, 0, 0]}, "be finite numbers that float64 can hold, but are 1000"),
        ("twa", {"start": "twa-layerwise"}, "have one weight for each checkpoint in every group"),
        (
            "learned-soup",
            {"start": "random"},
            "`start` of method `learned-soup` must be a combination of checkpoints and nothing else, but is `random`",
        ),
        ("given", {}, "must be 5 numbers, one per checkpoint, but are 0 numbers."),
        ("given", {"coefficients": [0.5, 0.5]}, "must be 5 numbers, one per checkpoint, but are 2 numbers."),
        (
            "given",
            {"coefficients": [0.2, 0.2, 0.2, 0.2, 0.1]},
            "sum to 1, unless `any_sum` is true, but are 0.9 in sum.",
        ),
        (
            "given",
            {"coefficients": {"step-0.safetensors": 1.0}},
            "name each of the 5 checkpoints, but are without `step-1",
        ),
        ("given", {"coefficients": [[0.2] * 5], "groups": "layers"}, "5 numbers, or 2 lists of 5, one per group"),
        ("given", {"coefficients": "uniform"}, "`coefficients` of method `given` must be of type list[float] |"),
        ("twa", {"prior": "strong"}, "`prior` of method `twa` must be a number, null or `learned`, but is `strong`."),
        (
            "pca",
            {"dimensions": 5},
            "`dimensions` of method `pca` must be at most one less than the number of checkpoints (4)",
        ),
        ("pca", {"dimensions": 0}, "`dimensions` of method `pca` must be at least 1, but is 0."),
        ("twa", {"groups": ["rest"]}, "match a parameter no earlier one does, but is `rest`"),
        ("twa", {"groups": ["0", "0"]}, "match a parameter no earlier one does, but is `0`"),
        ("twa", {"momentum": 0.5}, "`momentum` of method `twa` must be left out with `optimiser: adamw`"),
        ("pca", {"optimiser": "lbfgs", "steps": 9}, "`steps` of method `pca` must be left out with `optimiser: lbfgs`"),
        ("twa", {"passes": 3}, "`passes` of method `twa` must be left out with `optimiser: adamw`"),
        ("twa", {"basis": "unit"}, "`basis` of method `twa` must be one of axes, normalised, lengths, gram-schmidt"),
        ("pca", {"basis": "axes"}, "`basis` must be an option of method `pca`, but it has no such option."),
        ("auto", {"options": {"pca": {"steps": 9}}}, "that others start from, but is also for `pca`."),
    ],
    ids=str,
)
def test_bad_options_are_refused_with_the_thing_the_rule_and_the_value(
    folder: Path, method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(MethodError, match=re.escape(message)) as caught:
        run(folder, "out", method, options)
    assert caught.value.code == "invalid-method-options"
    assert not (folder / "out").exists()


def test_given_coefficients_are_taken_in_order_by_name_and_by_group(folder: Path) -> None:
    numbers = [0.5, -0.25, 0.25, 0.3, 0.2]
    run(folder, "listed", "given", {"coefficients": numbers})
    names = [f"step-{index}.safetensors" for index in range(5)]
    run(folder, "named", "given", {"coefficients": dict(zip(names, numbers, strict=True))})
    for name in ("listed", "named"):
        assert alpha_of(folder, name, "given")[:, 0].tolist() == numbers
    run(folder, "grouped", "given", {"coefficients": [numbers, numbers[::-1]], "groups": "layers"})
    assert alpha_of(folder, "grouped", "given").T.tolist() == [numbers, numbers[::-1]]
    state = candidate_state(folder / "grouped", folder / "checkpoints", "given")
    files = [load_file(folder / "checkpoints" / name) for name in names]
    for tensor, weights in (("0.weight", numbers), ("2.bias", numbers[::-1])):
        expected = sum(weight * file[tensor].double() for weight, file in zip(weights, files, strict=True))
        torch.testing.assert_close(state[tensor].double(), torch.as_tensor(expected), rtol=0, atol=1e-7)


def test_coefficients_of_another_sum_are_allowed_with_the_flag_judged_as_they_are_and_said(folder: Path) -> None:
    outcome = run(folder, "out", "given", {"coefficients": [0.1] * 5, "any_sum": True})
    score = next(score for score in outcome.candidates if score.method == "given")
    assert score.label == "given (sum 0.5)"
    assert any("sum to 0.5: the result is not an average" in warning for warning in outcome.warnings)
    # The judged model is half of the mean, not the mean.
    model = plain_net()
    model.load_state_dict(candidate_state(folder / "out", folder / "checkpoints", "given"))
    task = ToyTask(plain_net)
    data = task.open_data(folder, discover(folder / "checkpoints"))
    with torch.no_grad():
        losses = task.evaluate(model, data.batch(torch.arange(len(data))))["loss"]
    both = (score.fit["loss"] + score.select["loss"]) / 2
    assert float(losses.mean()) == pytest.approx(both, abs=1e-6)


@pytest.mark.parametrize(("K", "count"), [(1, 1), (2, 2), (5, 5), (8, 6), (10, 7), (20, 9), (300, 16)])
def test_an_emas_decays_remember_no_more_checkpoints_than_there_are(K: int, count: int) -> None:
    tried = decays(K)
    assert len(tried) == count
    assert tried == sorted(set(tried))
    assert all(1 / (1 - decay) <= max(K, SHORTEST_MEMORY) * 1.01 for decay in tried)
    assert K == 1 or 1 / (1 - tried[-1]) > K / 1.42, "the next one would remember more"


@pytest.mark.parametrize(("batches", "steps"), [(1, 40), (60, 40), (90, 60), (157, 100), (10_000, 100)])
def test_more_examples_are_worth_more_steps_unless_a_number_is_given(batches: int, steps: int) -> None:
    assert TwaOptions().settings(0, batches).steps == steps
    assert TwaOptions(speed_up=2.0).settings(0, batches).steps == steps // 2
    assert TwaOptions(steps=7).settings(0, batches).steps == 7


@pytest.mark.parametrize(("examples", "batches"), [(64, 8), (15, 1), (5, 1)])
def test_a_pass_has_as_many_whole_batches_as_its_examples_make(folder: Path, examples: int, batches: int) -> None:
    trainer = trainer_for(discover(folder / "checkpoints"), plain_net, "model", examples=examples)
    assert trainer.batches_per_pass == batches


def test_lbfgs_moves_however_many_batches_a_pass_has(folder: Path) -> None:
    run(folder, "out", "pca", {"optimiser": "lbfgs"}, task=ToyTask(plain_net, count=2000))
    report = json.loads((folder / "out" / "report.json").read_text())
    (losses,) = (row["curve"] for row in report["candidates"] if row["method"] == "pca")
    assert len(losses) == 6, "whole passes, of 125 batches each"
    assert (alpha_of(folder, "out", "pca") - 1 / 5).abs().max() > 0.05


def test_the_catalogue_names_a_source_for_every_method() -> None:
    for method in METHODS.values():
        assert method.reference
        assert method.reference_url.startswith("https://")
        assert method.summary.endswith(".")

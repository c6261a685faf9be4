"""A base, the ancestor of the checkpoints: one more row of coefficients, in every way of placing a model."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from ladle_engine import CheckpointError, MethodError, Outcome, average, candidate_state, rebuild
from ladle_engine.errors import EngineError
from ladle_engine.methods.context import MethodContext
from ladle_engine.pipeline import candidates
from ladle_engine.resume_state import ResumeState
from tests.unit.engine.points import PointTask, write_points
from tests.unit.engine.toy import Interrupted, ToyTask, norm_net, plain_net, write_checkpoints

METHODS = ("model-stock", "wise-ft")
Array = NDArray[np.float64]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five fine-tunes that share a move from `base.safetensors`, and each have one of their own."""
    write_checkpoints(tmp_path / "checkpoints", plain_net)
    generator = torch.Generator().manual_seed(7)
    first = load_file(tmp_path / "checkpoints" / "step-0.safetensors")
    base = {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in first.items()}
    save_file(base, tmp_path / "base.safetensors", metadata={"format": "pt"})
    return tmp_path


def run(folder: Path, name: str, method: str = "auto", **more: Any) -> Outcome:
    options = {"methods": list(METHODS)} if method == "auto" else {}
    return average(
        folder / "checkpoints",
        folder / "checkpoints",
        output=folder / name,
        base=more.pop("base", folder / "base.safetensors"),
        task=more.pop("task", ToyTask(plain_net)),
        method=method,
        method_options=more.pop("method_options", options),
        **more,
    )


def saved(folder: Path, name: str) -> dict[str, Any]:
    entries: dict[str, Any] = json.loads((folder / name / "coefficients.json").read_text())["candidates"]
    return entries


def weights(folder: Path) -> tuple[dict[str, Array], list[dict[str, Array]]]:
    """float64: the base, and the checkpoints in order."""
    files = sorted((folder / "checkpoints").glob("*.safetensors"))
    base, *own = [folder / "base.safetensors", *files]
    return _as_arrays(base), [_as_arrays(file) for file in own]


def _as_arrays(file: Path) -> dict[str, Array]:
    return {name: tensor.double().numpy() for name, tensor in load_file(file).items()}


def model_stock_by_hand(folder: Path, layers: dict[str, str]) -> dict[str, Array]:
    """Jang et al. 2024: `t = K cos / (1 + (K - 1) cos)`, tensor by tensor of each layer, over all pairs."""
    base, own = weights(folder)
    K = len(own)
    out = {}
    for layer in set(layers.values()):
        names = [name for name in base if layers[name] == layer]
        moves = [np.concatenate([(one[name] - base[name]).ravel() for name in names]) for one in own]
        lengths = [float(np.linalg.norm(move)) or 1.0 for move in moves]
        cosines = [moves[i] @ moves[j] / lengths[i] / lengths[j] for i in range(K) for j in range(i + 1, K)]
        cosine = max(float(np.mean(cosines)), 0.0)
        ratio = K * cosine / (1 + (K - 1) * cosine)
        for name in names:
            out[name] = ratio * np.mean([one[name] for one in own], axis=0) + (1 - ratio) * base[name]
    return out


@pytest.mark.parametrize("grouping", ["layers", "model", "tensors"])
def test_model_stock_is_the_published_closed_form(folder: Path, grouping: str) -> None:
    run(folder, "out", "model-stock", method_options={"groups": grouping})
    state = candidate_state(folder / "out", folder / "checkpoints", "model-stock", folder / "base.safetensors")
    layers = {name: {"layers": name[0], "model": "", "tensors": name}[grouping] for name in state}
    for name, expected in model_stock_by_hand(folder, layers).items():
        np.testing.assert_allclose(state[name].double().numpy(), expected, rtol=0, atol=1e-6)
    entry = saved(folder, "out")["model-stock"]
    alpha_KG = torch.tensor(entry["alpha"])
    assert entry["base"] is True
    assert entry["checkpoints"][0] == "base:base.safetensors"
    torch.testing.assert_close(alpha_KG.sum(dim=0), torch.ones(alpha_KG.shape[1]))
    # A tensor of one number has checkpoints on either side of the base.
    assert float(alpha_KG[0].min()) > 0
    assert grouping == "tensors" or float(alpha_KG[0].max()) < 1


@pytest.mark.parametrize("frozen", range(1, 6))
def test_a_layer_that_some_fine_tunes_left_alone_counts_as_no_move_and_not_as_noise(folder: Path, frozen: int) -> None:
    base = load_file(folder / "base.safetensors")
    for file in sorted((folder / "checkpoints").glob("*.safetensors"))[:frozen]:
        state = load_file(file) | {name: base[name] for name in base if name.startswith("0.")}
        save_file(state, file, metadata={"format": "pt"})
    run(folder, "out", "model-stock")
    state = candidate_state(folder / "out", folder / "checkpoints", "model-stock", folder / "base.safetensors")
    for name, expected in model_stock_by_hand(folder, {name: name[0] for name in state}).items():
        np.testing.assert_allclose(state[name].double().numpy(), expected, rtol=0, atol=1e-6)


def test_checkpoints_that_share_nothing_stay_at_the_base_and_those_that_agree_at_the_mean(tmp_path: Path) -> None:
    """Two layers: in the first the moves are opposite, in the second the same."""
    base = {"0.weight": torch.zeros(8, 6), "0.bias": torch.zeros(8), "2.weight": torch.ones(1, 8)}
    base["2.bias"] = torch.zeros(1)
    (tmp_path / "checkpoints").mkdir()
    save_file(base, tmp_path / "base.safetensors", metadata={"format": "pt"})
    for step, sign in enumerate((1.0, -1.0)):
        moved = base | {"0.weight": torch.full((8, 6), sign), "2.weight": base["2.weight"] + 0.5}
        save_file(moved, tmp_path / "checkpoints" / f"step-{step}.safetensors", metadata={"format": "pt"})
    run(tmp_path, "out", "model-stock")
    alpha_KG = torch.tensor(saved(tmp_path, "out")["model-stock"]["alpha"])
    torch.testing.assert_close(alpha_KG, torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.0, 0.5]]))


def bowl(place: Tensor) -> Tensor:
    """Lowest at (1, 1), and steeper in the first number."""
    moved = place - 1
    return 0.1 + 3 * moved[0] ** 2 + moved[1] ** 2 + 0.5 * moved[0] * moved[1]


POINTS = ([1.6, 0.4], [1.2, 2.1], [2.4, 1.3])
BASE = [0.2, -0.1]


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """Models of two numbers, whose loss is known in closed form."""
    write_points(tmp_path / "checkpoints", POINTS)
    write_points(tmp_path / "of-base", [BASE])
    shutil.copy(tmp_path / "of-base" / "step-0.safetensors", tmp_path / "base.safetensors")
    return tmp_path


def place_of(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([state["first.weight"][:, 0], state["second.weight"][:, 0]]).double()


def relative_loss(outcome: Outcome, method: str) -> float:
    """That of a candidate, in units of the best checkpoint's: the scale of the examples drops out."""
    of = {score.method: score.select["loss"] for score in outcome.candidates}
    return of[method] / of["best"]


@pytest.mark.parametrize("to", ["mean", "best"])
def test_wise_ft_is_the_line_from_the_base_and_takes_its_best_point(points: Path, to: str) -> None:
    outcome = run(points, "out", "wise-ft", task=PointTask(bowl), method_options={"to": to})
    own, base = torch.tensor(POINTS, dtype=torch.float64), torch.tensor(BASE, dtype=torch.float64)
    best = min(own, key=lambda place: float(bowl(place)))
    target = own.mean(dim=0) if to == "mean" else best
    shares = [round(0.05 * step, 2) for step in range(21)]
    losses = {share: float(bowl(share * target + (1 - share) * base)) for share in shares}
    expected = min(losses, key=lambda share: losses[share])
    assert 0 < expected < 1
    assert f"share {expected:g} of the {to}" in next(s.label for s in outcome.candidates if s.method == "wise-ft")
    assert relative_loss(outcome, "wise-ft") == pytest.approx(losses[expected] / float(bowl(best)), rel=1e-5)


@pytest.mark.parametrize(("beyond", "away_from"), [("last", "mean"), ("best", "mean"), ("best", "base")])
def test_extrapolation_goes_past_a_checkpoint_as_far_as_it_pays(points: Path, beyond: str, away_from: str) -> None:
    options = {"beyond": beyond, "away_from": away_from}
    # Further out than all of them, so that every way leads on.
    task = PointTask(lambda place: bowl(place - 4))
    base_path = points / "base.safetensors" if away_from == "base" else None
    outcome = run(points, "out", "extrapolate", base=base_path, task=task, method_options=options)
    own, base = torch.tensor(POINTS, dtype=torch.float64), torch.tensor(BASE, dtype=torch.float64)
    best = min(own, key=lambda place: float(bowl(place - 4)))
    end, origin = own[-1] if beyond == "last" else best, own.mean(dim=0) if away_from == "mean" else base
    tried = [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0]
    loss_at = {share: float(bowl(end + share * (end - origin) - 4)) for share in tried}
    first = tried.index(min(tried, key=lambda share: loss_at[share]))
    around = tried[max(first - 1, 0) : first + 2]
    finer = [tried[first], *((one + other) / 2 for one, other in pairwise(around))]
    expected = min(float(bowl(end + share * (end - origin) - 4)) for share in finer)
    assert relative_loss(outcome, "extrapolate") == pytest.approx(expected / float(bowl(best - 4)), rel=1e-5)
    alpha_K = torch.tensor(saved(points, "out")["extrapolate"]["alpha"])[:, 0]
    assert float(alpha_K.sum()) == pytest.approx(1)
    assert float(alpha_K.max()) > 1


@pytest.mark.parametrize("precision", ["float32", "streamed", "int8", "bfloat16"])
def test_what_is_judged_is_what_is_written_and_rebuilt(points: Path, precision: str) -> None:
    outcome = run(points, "out", precision=precision, task=PointTask(bowl))
    assert {score.method for score in outcome.candidates} == {"best", *METHODS}
    best = min(float(bowl(torch.tensor(point, dtype=torch.float64))) for point in POINTS)
    for method in METHODS:
        state = candidate_state(points / "out", points / "checkpoints", method, points / "base.safetensors")
        assert relative_loss(outcome, method) == pytest.approx(float(bowl(place_of(state))) / best, rel=1e-5)
    made = rebuild(
        points / "out", points / "checkpoints", output=points / "again", candidate="wise-ft",
        base=points / "base.safetensors",
    )  # fmt: skip
    again = load_file(made / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_statistics_of_the_base_are_averaged_with_its_weight(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", norm_net)
    base = load_file(tmp_path / "checkpoints" / "step-0.safetensors")
    moved = {name: tensor + 0.5 if tensor.is_floating_point() else tensor for name, tensor in base.items()}
    save_file(moved, tmp_path / "base.safetensors", metadata={"format": "pt"})
    # Batches of one have no statistics of their own.
    task = ToyTask(norm_net, batch_size=1)
    run(tmp_path, "out", "wise-ft", task=task, method_options={"share": 0.5})
    state = candidate_state(tmp_path / "out", tmp_path / "checkpoints", "wise-ft", tmp_path / "base.safetensors")
    first, own = weights(tmp_path)
    for name in ("1.running_mean", "1.running_var"):
        expected = 0.5 * first[name] + 0.5 * np.mean([one[name] for one in own], axis=0)
        np.testing.assert_allclose(state[name].double().numpy(), expected, atol=1e-6)
    assert int(state["1.num_batches_tracked"]) == int(load_file(sorted_files(tmp_path)[-1])["1.num_batches_tracked"])


def sorted_files(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("*.safetensors"))


def test_the_base_itself_may_be_the_result(folder: Path) -> None:
    run(folder, "out", "wise-ft", method_options={"share": 0.0})
    entry = saved(folder, "out")["wise-ft"]
    assert [row[0] for row in entry["alpha"]] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    state = candidate_state(folder / "out", folder / "checkpoints", "wise-ft", folder / "base.safetensors")
    base = load_file(folder / "base.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in base.items())


def test_a_checkpoint_of_the_folder_can_be_the_base_and_is_not_averaged(folder: Path) -> None:
    run(folder, "outside")
    shutil.copy(folder / "base.safetensors", folder / "checkpoints" / "pretrained.safetensors")
    for number, given in enumerate(("pretrained.safetensors", folder / "checkpoints" / "pretrained.safetensors")):
        outcome = run(folder, f"out-{number}", base=given)
        assert outcome.num_checkpoints == 5
        entry = saved(folder, f"out-{number}")["model-stock"]
        assert entry["checkpoints"][0] == "pretrained.safetensors"
        # It is found in the folder by its name.
        state = candidate_state(folder / f"out-{number}", folder / "checkpoints", "model-stock")
        assert entry["alpha"] == saved(folder, "outside")["model-stock"]["alpha"]
    assert state.keys() == load_file(folder / "base.safetensors").keys()
    with pytest.raises(CheckpointError, match="`base=` must be the path of a model, or the name of a checkpoint in"):
        candidate_state(folder / "outside", folder / "checkpoints", "model-stock")


def test_the_report_names_the_base_and_its_digest(folder: Path) -> None:
    run(folder, "out")
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["base"]["name"] == "base:base.safetensors"
    base, own = weights(folder)
    distances = [np.sqrt(sum(((one[name] - base[name]) ** 2).sum() for name in base)) for one in own]
    np.testing.assert_allclose(report["base"]["distances"], distances, rtol=1e-6)
    digests = json.loads((folder / "out" / "coefficients.json").read_text())["sha256"]
    assert digests["base:base.safetensors"] == report["base"]["files"]
    rows = {row["method"]: row for row in report["candidates"]}
    assert len(rows["model-stock"]["coefficients"][0]) == 5
    own_sum = sum(rows["model-stock"]["coefficients"][0])
    assert own_sum + rows["model-stock"]["base_weights"][0] == pytest.approx(1)
    assert "- `base:base.safetensors`, from which these" in (folder / "out" / "README.md").read_text()
    assert "of their base" in (folder / "out" / "report.html").read_text()


def test_methods_without_the_base_choose_what_they_choose_without_one(folder: Path) -> None:
    named = {"methods": ["uniform", "twa", "model-stock"], "options": {"twa": {"steps": 20}}}
    run(folder, "with", method_options=named)
    named["methods"] = ["uniform", "twa"]
    average(
        folder / "checkpoints", folder / "checkpoints", output=folder / "without", task=ToyTask(plain_net),
        method_options=named,
    )  # fmt: skip
    for method in ("best", "uniform", "twa"):
        one, other = (torch.tensor(saved(folder, name)[method]["alpha"]) for name in ("with", "without"))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)


def ramp_by_hand(ramp: float, steps: int, rate: float, scale: float) -> Tensor:
    """float64 [2]: gradient descent on coefficients of two layers of one number each, around LiNeS's start."""
    own_KG, base_G = torch.tensor(POINTS, dtype=torch.float64), torch.tensor(BASE, dtype=torch.float64)
    share_G = torch.tensor([ramp, 1.0], dtype=torch.float64)
    alpha_KG = share_G / len(own_KG) * torch.ones_like(own_KG)
    for _ in range(steps):
        alpha_KG = alpha_KG.requires_grad_()
        loss = scale * bowl((1 - share_G) * base_G + (alpha_KG * own_KG).sum(dim=0))
        (gradient_KG,) = torch.autograd.grad(loss, alpha_KG)
        alpha_KG = alpha_KG.detach() - rate * (gradient_KG - gradient_KG.mean(dim=0))
    return (1 - share_G) * base_G + (alpha_KG * own_KG).sum(dim=0)


@pytest.mark.parametrize(("steps", "rate"), [(1, 1e-9), (4, 0.02)])
def test_layers_are_trained_around_a_ramp_from_the_base(points: Path, steps: int, rate: float) -> None:
    plain = {"optimiser": "sgd", "momentum": 0.0, "basis": "lengths", "shared": False, "prior": None}
    options = {**plain, "ramp": 0.4, "steps": steps, "learning_rate": rate, "averaged_fraction": 0.0, "rescale": False}
    task = PointTask(bowl)
    task.batch_size = 64
    run(points, "out", "twa-layerwise", task=task, method_options=options)
    state = candidate_state(points / "out", points / "checkpoints", "twa-layerwise", points / "base.safetensors")
    report = json.loads((points / "out" / "report.json").read_text())
    first_loss = next(row["curve"] for row in report["candidates"] if row["method"] == "twa-layerwise")[0]
    scale = first_loss / float(bowl(ramp_by_hand(0.4, 0, rate, 1.0)))
    torch.testing.assert_close(place_of(state), ramp_by_hand(0.4, steps, rate, scale), rtol=0, atol=1e-5)
    alpha_KG = torch.tensor(saved(points, "out")["twa-layerwise"]["alpha"])
    torch.testing.assert_close(alpha_KG[0], torch.tensor([0.6, 0.0]))


def test_a_ramp_needs_a_base_and_several_layers(points: Path) -> None:
    with pytest.raises(MethodError, match=r"`base=` must be the model that .* for `twa-layerwise`, but is absent"):
        run(points, "out", "twa-layerwise", task=PointTask(bowl), base=None, method_options={"ramp": 0.5})
    options = {"ramp": 0.5, "groups": "model"}
    with pytest.raises(MethodError, match="`ramp` of method `twa-layerwise` must be left out with a single group"):
        run(points, "out", "twa-layerwise", task=PointTask(bowl), method_options=options)


def test_a_diagnosis_goes_without_what_has_a_share_of_the_base(points: Path) -> None:
    outcome = run(points, "out", "wise-ft", task=PointTask(bowl), diagnose=True)
    assert outcome.method == "wise-ft"
    plane = json.loads((points / "out" / "report.json").read_text())["diagnosis"]["plane"]
    assert "winner" not in plane["points"]


def test_auto_tries_what_needs_a_base_where_there_is_one(folder: Path) -> None:
    outcome = run(folder, "out", method_options={})
    assert {*METHODS} < {score.method for score in outcome.candidates}


@pytest.mark.parametrize("method", [*METHODS, "twa-layerwise"])
def test_a_job_that_dies_goes_on_with_the_same_bits(folder: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    options = {"methods": [*METHODS, "twa-layerwise"], "options": {"twa-layerwise": {"ramp": 0.5, "steps": 12}}}
    run(folder, "whole", state_dir=folder / "other", method_options=options)
    save = ResumeState.save
    with monkeypatch.context() as patched:

        def dies(state: ResumeState, key: str, value: Any) -> None:
            save(state, key, value)
            if key == f"choice-{method}":
                raise Interrupted

        patched.setattr(ResumeState, "save", dies)
        with pytest.raises(Interrupted):
            run(folder, "again", state_dir=folder / "state", method_options=options)
    run(folder, "again", state_dir=folder / "state", method_options=options)
    assert saved(folder, "again") == saved(folder, "whole")


def test_another_base_is_another_job(folder: Path) -> None:
    run(folder, "one", "model-stock", state_dir=folder / "state")
    base = load_file(folder / "base.safetensors")
    save_file({n: 2 * t for n, t in base.items()}, folder / "other.safetensors", metadata={"format": "pt"})
    run(folder, "two", "model-stock", state_dir=folder / "state", base=folder / "other.safetensors")
    assert saved(folder, "one")["model-stock"]["alpha"] != saved(folder, "two")["model-stock"]["alpha"]


def changed(folder: Path, change: Any) -> Path:
    base = load_file(folder / "base.safetensors")
    change(base)
    save_file(base, folder / "changed.safetensors", metadata={"format": "pt"})
    return folder / "changed.safetensors"


def _lacks_one(base: dict[str, Tensor]) -> None:
    del base["2.weight"]


def _wider(base: dict[str, Tensor]) -> None:
    base["2.weight"] = torch.zeros(3, 8)


def _not_finite(base: dict[str, Tensor]) -> None:
    base["0.weight"][0, 0] = float("nan")


REFUSED = {
    "lacks": (_lacks_one, "`base:changed.safetensors` lacks 1 of the 4 tensors of `step-4.safetensors`: `2.weight`"),
    "wider": (_wider, "has `2.weight` as floating of shape (3, 8), and `step-4.safetensors` as floating of shape (1"),
    "nan": (_not_finite, "`0.weight` in `base:changed.safetensors` holds 1 NaN or infinite values. Give another base."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_base_that_does_not_fit_is_refused_by_its_name(folder: Path, case: str) -> None:
    change, told = REFUSED[case]
    with pytest.raises(CheckpointError) as refused:
        run(folder, "out", base=changed(folder, change))
    assert told in refused.value.message
    assert not (folder / "out").exists()


def test_a_base_without_the_head_fits_where_the_head_is_left_out(folder: Path) -> None:
    def no_head(base: dict[str, Tensor]) -> None:
        del base["2.weight"], base["2.bias"]

    outcome = run(folder, "out", base=changed(folder, no_head), skip_tensors="2.*")
    assert {score.method for score in outcome.candidates} == {"best", *METHODS}


def test_a_base_that_is_one_of_the_checkpoints_is_refused(folder: Path) -> None:
    shutil.copy(folder / "checkpoints" / "step-2.safetensors", folder / "base.safetensors")
    with pytest.raises(CheckpointError, match=r"holds the weights of `step-2\.safetensors`") as refused:
        run(folder, "out")
    assert refused.value.code == "identical-checkpoints"


def test_a_base_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="`base=` must be the path of a model, or the name of a checkpoint"):
        run(folder, "out", base=folder / "nowhere")


def test_methods_say_that_they_need_a_base_or_have_no_use_for_one(folder: Path) -> None:
    with pytest.raises(MethodError, match=r"`base=` must be the model that .* for `wise-ft`, but is absent"):
        run(folder, "out", "wise-ft", base=None, method_options={})
    with pytest.raises(MethodError, match="trained from for `model-stock`, `wise-ft`, but is absent"):
        run(folder, "out", base=None, method_options={"methods": ["uniform", *METHODS]})
    with pytest.raises(MethodError, match="`base=` must be absent for `uniform`, which has no use for it"):
        run(folder, "out", "uniform", method_options={})
    with pytest.raises(MethodError, match="`base=` must be absent for a curve, which has no use for it"):
        run(folder, "out", method_options={}, kind="curve")
    with pytest.raises(
        MethodError, match=r"`start` .* must be a combination of checkpoints and nothing else, but is `wise-ft`"
    ):
        run(folder, "out", "twa", method_options={"start": "wise-ft"})


def test_a_base_that_changes_while_the_job_runs_ends_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = candidates._judged

    def changing(context: MethodContext, *others: Any) -> Any:
        base = load_file(folder / "base.safetensors")
        save_file({name: 2 * tensor for name, tensor in base.items()}, folder / "base.safetensors")
        return judge(context, *others)

    monkeypatch.setattr(candidates, "_judged", changing)
    with pytest.raises(EngineError, match=r"must stay as it is .*/base.safetensors"):
        run(folder, "out")

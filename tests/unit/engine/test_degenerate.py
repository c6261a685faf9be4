"""Inputs at the edges: what must not move does not, what is missing is dropped, and nothing becomes NaN."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle_engine import CheckpointError, Outcome, average, candidate_state, rebuild
from ladle_engine.checkpoints import chunks, discover
from ladle_engine.directions import buckets
from ladle_engine.directions import checkpoint_directions as directions
from ladle_engine.directions import resident_rows as rows
from ladle_engine.directions.buckets import Bucket
from ladle_engine.directions.formats import BLOCK, ROW_PRECISIONS
from ladle_engine.model.binding import bind
from ladle_engine.model.groups import GROUPINGS
from ladle_engine.tasks.examples import split
from tests.builders import WITHOUT_BASE, quick_options
from tests.unit.engine.toy import ToyTask, model_weights_for, norm_net, plain_net, write_checkpoints


class OddNet(nn.Module):
    """Has an empty parameter, an integer buffer, a boolean one and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.none = nn.Parameter(torch.zeros(0, 4))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.last = nn.Linear(8, 1)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("mask", torch.tensor([True, False, True]))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.tanh(self.first(x)) * self.scale) + self.none.sum()
        return result


def edit(folder: Path, change: Any) -> None:
    """Rewrites every checkpoint: `change(index, state)` returns the new state."""
    for index, file in enumerate(sorted(folder.glob("*.safetensors"))):
        save_file(change(index, load_file(file)), file)


def run(folder: Path, build: Any = plain_net, count: int = 5, **options: Any) -> Outcome:
    method = options.pop("method", "auto")
    chosen = options.pop("method_options", None)
    if chosen is None:
        given = quick_options(count, steps=6)
        chosen = {"methods": WITHOUT_BASE, "options": given} if method == "auto" else given.get(method, {})
    return average(
        folder,
        folder,
        output=folder.parent / "out",
        task=ToyTask(build),
        method=method,
        method_options=chosen,
        **options,
    )


@pytest.mark.parametrize("precision", [*ROW_PRECISIONS, "streamed"])
def test_frozen_tensors_stay_bit_identical_at_every_precision_in_every_method(tmp_path: Path, precision: str) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, plain_net)
    frozen = {name: tensor.clone() for name, tensor in load_file(folder / "step-0.safetensors").items() if "0." in name}
    edit(folder, lambda index, state: {**state, **frozen})
    outcome = run(folder, precision=precision)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["memory"]["precision"] == precision
    for score in outcome.candidates:
        state = candidate_state(tmp_path / "out", folder, score.method)
        for name, tensor in frozen.items():
            if score.method == "random":
                continue  # Its directions are drawn and not taken from checkpoints: nothing is frozen for it.
            assert torch.equal(state[name].view(torch.int32), tensor.view(torch.int32)), (score.method, name)


def test_near_duplicates_and_a_rank_deficient_set_are_averaged_without_nan(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, plain_net)
    first, second = (load_file(folder / f"step-{index}.safetensors") for index in (0, 1))

    def combined(index: int, state: dict[str, Tensor]) -> dict[str, Tensor]:
        # Two directions in all: the third is the first but for one rounding, the others lie between.
        share = (0.0, 1.0, 0.0, 0.5, 0.25)[index]
        made = {name: (1 - share) * first[name] + share * second[name] for name in state}
        if index == 2:
            element = next(iter(made.values())).view(-1)[:1]
            element.copy_(torch.nextafter(element, torch.tensor(torch.inf)))
        return made

    edit(folder, combined)
    outcome = run(folder)
    assert {score.method for score in outcome.candidates} == set(WITHOUT_BASE)
    assert any("hold the same parameters, which count twice" in warning for warning in outcome.warnings)
    saved = json.loads((tmp_path / "out" / "coefficients.json").read_text())["candidates"]
    for method, entry in saved.items():
        alpha_KG = torch.tensor(entry["alpha"], dtype=torch.float64)
        assert bool(torch.isfinite(alpha_KG).all()), method
        assert (alpha_KG.sum(dim=0) - 1).abs().max() < 1e-9, method


def test_two_checkpoints_are_enough_for_every_method_and_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, plain_net, count=2)
    outcome = run(folder, count=2)
    assert {score.method for score in outcome.candidates} == set(WITHOUT_BASE)
    (tmp_path / "out").rename(tmp_path / "two")
    (folder / "step-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="must hold at least 2 checkpoints") as caught:
        run(folder, count=1)
    assert caught.value.code == "too-few-checkpoints"


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64]
)
def test_checkpoints_of_every_floating_type_are_averaged_in_their_own(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, plain_net)
    edit(folder, lambda index, state: {name: tensor.to(dtype) for name, tensor in state.items()})
    methods = {"methods": ["uniform", "twa"], "options": {"twa": {"steps": 12, "rescale": False}}}
    outcome = run(folder, method_options=methods)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {dtype}
    files = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    saved = json.loads((tmp_path / "out" / "coefficients.json").read_text())["candidates"]
    alpha = {method: [row[0] for row in saved[method]["alpha"]] for method in ("uniform", "twa")}
    assert alpha["uniform"] == [0.2] * 5
    assert max(abs(weight - 0.2) for weight in alpha["twa"]) > 0.05, "it must have gone somewhere"
    for method, alpha_K in alpha.items():
        state = candidate_state(tmp_path / "out", folder, method)
        rebuild(tmp_path / "out", folder, output=tmp_path / method, candidate=method)
        rebuilt = load_file(tmp_path / method / "model.safetensors")
        model = plain_net()
        for name, tensor in state.items():
            summed = sum(weight * file[name].double() for weight, file in zip(alpha_K, files, strict=True))
            assert tensor.dtype == rebuilt[name].dtype == dtype
            # Far below the step of any type but float64, in which the order of the sum shows.
            expected = torch.as_tensor(summed).to(dtype).double()
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-14, atol=1e-15)
            assert torch.equal(tensor.double(), rebuilt[name].double()), (method, name)
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        score = next(score for score in outcome.candidates if score.method == method)
        assert select_loss(tmp_path, model) == pytest.approx(score.select["loss"], rel=1e-6)


def select_loss(folder: Path, model: nn.Module) -> float:
    """Of a model on its own, on the examples that judge candidates."""
    task = ToyTask(plain_net)
    data = task.open_data(folder, discover(folder / "checkpoints"))
    _, select = split(len(data), 0.5, 0)
    with torch.no_grad():
        return float(task.evaluate(model.eval(), data.batch(select))["loss"].double().mean())


def test_types_may_differ_between_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, plain_net)
    dtypes = (torch.float16, torch.float32, torch.bfloat16, torch.float64, torch.float32)
    edit(folder, lambda index, state: {name: tensor.to(dtypes[index]) for name, tensor in state.items()})
    run(folder, method="twa")
    files = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    state = candidate_state(tmp_path / "out", folder, "twa")
    entry = json.loads((tmp_path / "out" / "coefficients.json").read_text())["candidates"]["twa"]
    for name, tensor in state.items():
        expected = sum(alpha[0] * file[name].double() for alpha, file in zip(entry["alpha"], files, strict=True))
        assert tensor.dtype == torch.float32, "the reference's, which is the last one's"
        assert torch.equal(tensor, torch.as_tensor(expected).to(torch.float32))


def test_empty_scalar_integer_and_boolean_tensors_pass_through_every_method(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, OddNet)
    edit(
        folder, lambda index, state: {**state, "steps": torch.tensor(index), "mask": torch.tensor([True, False, True])}
    )
    outcome = run(folder, OddNet)
    assert {score.method for score in outcome.candidates} == set(WITHOUT_BASE)
    for method in ("uniform", "twa-layerwise", "random"):
        state = candidate_state(tmp_path / "out", folder, method)
        assert state["none"].shape == (0, 4)
        assert state["steps"].item() == 4, "the reference's"
        assert state["mask"].tolist() == [True, False, True]
        assert state["scale"].shape == ()


def test_three_hundred_checkpoints_are_one_job(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, plain_net, count=300)
    options = {"methods": ["uniform", "last-k", "twa"], "options": {"twa": {"steps": 4}, "last-k": {"k": 200}}}
    outcome = run(folder, method_options=options)
    assert outcome.num_checkpoints == 300
    assert {score.method for score in outcome.candidates} == {"best", "uniform", "last-k", "twa"}


def wide_net() -> nn.Module:
    """Its first layer is 350 numbers in two tensors: six chunks of 64, one of which has parts of both."""
    return nn.Sequential(nn.Linear(6, 50), nn.Tanh(), nn.Linear(50, 1))


ALPHA_K = (0.7, -0.4, 0.3, 0.5, -0.1)


def placed_weights(folder: Path, precision: str) -> dict[str, Tensor]:
    """What the placement makes of the directions, for `ALPHA_K`."""
    checkpoints = discover(folder)
    binding = bind(wide_net(), checkpoints)
    groups = GROUPINGS["model"](binding)
    weights = model_weights_for(checkpoints, binding, precision=precision)
    weights.placement(groups).load_weights(torch.tensor(ALPHA_K, dtype=torch.float64)[:, None], groups)
    weights.close()
    return {name: parameter.detach().clone() for name, parameter in binding.parameters.items()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "int4", "streamed"])
@pytest.mark.parametrize("bucket_elements", [buckets.BUCKET_ELEMENTS, 100], ids=["bucket a layer", "bucket a tensor"])
def test_a_tensor_larger_than_a_chunk_and_a_bucket_is_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, bucket_elements: int
) -> None:
    folder = tmp_path / "checkpoints"
    write_checkpoints(folder, wide_net)
    options = {"steps": 12, "groups": "layers", "rescale": False}
    # Before both runs, for the blocks that int8 and int4 scale begin where a bucket does.
    monkeypatch.setattr(buckets, "BUCKET_ELEMENTS", bucket_elements)
    run(folder, wide_net, method="twa", method_options=options, precision=precision)
    (tmp_path / "out").rename(tmp_path / "whole")
    placed = placed_weights(folder, precision)

    monkeypatch.setattr(chunks, "CHUNK_NUMBERS", 1)
    for limit in ("FLOAT32_CHUNK_LENGTH", "DECODED_ELEMENTS"):
        monkeypatch.setattr(rows, limit, BLOCK)
    read: list[tuple[int, slice]] = []
    read_chunks = buckets.read_chunks

    def watched(readers: Any, bucket: Bucket, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        for elements, weights_KC in read_chunks(readers, bucket, dtype):
            read.append((bucket.length, elements))
            yield elements, weights_KC

    monkeypatch.setattr(directions, "read_chunks", watched)
    run(folder, wide_net, method="twa", method_options=options, precision=precision)
    chunked = placed_weights(folder, precision)
    longest = max(length for length, _ in read)
    assert longest == (350 if bucket_elements > 350 else 300)
    starts = {elements.start for length, elements in read if length == longest}
    assert starts == set(range(0, longest, 64)), "several chunks fill one bucket"

    one, other = (torch.tensor(trained_alpha(tmp_path / name)) for name in ("whole", "out"))
    assert (one - 0.2).abs().max() > 0.05
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    files = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    for name, weights in placed.items():
        torch.testing.assert_close(chunked[name], weights, rtol=0, atol=1e-6)
        if precision in ("float32", "streamed"):
            exact = sum(alpha * file[name].double() for alpha, file in zip(ALPHA_K, files, strict=True))
            torch.testing.assert_close(weights.double(), exact, rtol=0, atol=1e-6)
    written, again = (candidate_state(tmp_path / name, folder, "twa") for name in ("whole", "out"))
    for name, weights in written.items():
        torch.testing.assert_close(again[name], weights, rtol=0, atol=1e-6)


def images_net() -> nn.Module:
    """In `channels_last`: its weights do not lie in the order of their indices."""
    net = nn.Sequential(nn.Unflatten(1, (2, 3, 1)), nn.Conv2d(2, 8, (2, 1)), nn.Tanh(), nn.Flatten(), nn.Linear(16, 1))
    return net.to(memory_format=torch.channels_last)


class SparseNet(nn.Module):
    """Its embedding has a sparse gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3, sparse=True)
        self.last = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.table(x[:, :2].gt(0).long()).flatten(1))
        return result


@pytest.mark.parametrize("build", [images_net, SparseNet])
def test_any_layout_of_weights_and_gradients_trains_as_the_plain_one(tmp_path: Path, build: Any) -> None:
    def plain() -> nn.Module:
        net: nn.Module = build().to(memory_format=torch.contiguous_format)
        for module in net.modules():
            if isinstance(module, nn.Embedding):
                module.sparse = False
        return net

    write_checkpoints(tmp_path / "checkpoints", plain)
    run(tmp_path / "checkpoints", build, method="twa", method_options={"steps": 8})
    alpha = trained_alpha(tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "first")
    run(tmp_path / "checkpoints", plain, method="twa", method_options={"steps": 8})
    assert alpha != [[0.2]] * 5
    assert torch.allclose(torch.tensor(alpha), torch.tensor(trained_alpha(tmp_path / "out")), rtol=0, atol=1e-6)


def trained_alpha(output: Path) -> Any:
    return json.loads((output / "coefficients.json").read_text())["candidates"]["twa"]["alpha"]


def test_statistics_are_the_mean_where_no_coefficient_is_positive(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "checkpoints", norm_net)
    outcome = run(
        tmp_path / "checkpoints",
        norm_net,
        method="given",
        method_options={"coefficients": [-0.1, -0.2, 0.0, -0.3, -0.4], "any_sum": True},
    )
    assert all(math.isfinite(score.select["loss"]) for score in outcome.candidates)
    state = candidate_state(tmp_path / "out", tmp_path / "checkpoints", "given")
    files = [load_file(file)["1.running_var"] for file in sorted((tmp_path / "checkpoints").glob("*.safetensors"))]
    torch.testing.assert_close(state["1.running_var"], torch.stack(files).mean(dim=0))


@pytest.mark.parametrize("build", [plain_net, norm_net])
@pytest.mark.parametrize("precision", ROW_PRECISIONS)
def test_what_is_judged_is_what_is_written_however_coarse_the_directions_are(
    tmp_path: Path, precision: str, build: Any
) -> None:
    write_checkpoints(tmp_path / "checkpoints", build)
    outcome = run(tmp_path / "checkpoints", build, precision=precision)
    assert {score.method for score in outcome.candidates} == set(WITHOUT_BASE)
    for score in outcome.candidates:
        model = build()
        model.load_state_dict(candidate_state(tmp_path / "out", tmp_path / "checkpoints", score.method))
        assert select_loss(tmp_path, model) == pytest.approx(score.select["loss"], rel=1e-6), score.method

"""What the output's type cannot hold is refused wherever it arises, and never written as an infinity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle_engine import CheckpointError, MethodError, average, combine_checkpoints, discover
from ladle_engine.checkpoints.readers import open_all
from ladle_engine.coefficients import Coefficients
from ladle_engine.output.recipe import BLOCK_ELEMENTS, Recipe
from ladle_engine.progress import ProgressEvent, StageStarted
from tests.unit.engine.toy import ToyTask, norm_net, plain_net

F8 = {torch.float8_e4m3fn: 448, torch.float8_e5m2: 57344, torch.float8_e4m3fnuz: 240, torch.float8_e5m2fnuz: 57344}


def saved(folder: Path, *made: Mapping[str, Tensor]) -> Path:
    folder.mkdir()
    for number, state in enumerate(made, start=1):
        save_file(dict(state), folder / f"step-{number}.safetensors")
    return folder


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        call()
    assert caught.value.code == "non-finite-weights"
    return caught.value.message


def test_a_sum_that_overflows_a_narrower_type_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "in", *({"w": torch.tensor([1e5 * n, 1.0]), "b": torch.ones(2) * n} for n in (1, 2)))
    message = refused(lambda: combine_checkpoints(folder, output=tmp_path / "out", dtype="float16"))
    assert "`w` of the average is too large: it reaches 150000, and float16 ends at 65504" in message
    assert "Choose a wider `dtype=`" in message
    assert not (tmp_path / "out").exists()
    model = load_file(combine_checkpoints(folder, output=tmp_path / "out", dtype="bfloat16") / "model.safetensors")
    assert bool(torch.isfinite(model["w"]).all())


def test_weights_beyond_one_and_mixed_types_overflow_too(tmp_path: Path) -> None:
    half = saved(tmp_path / "half", *({"w": torch.tensor([4e4 * n]).half()} for n in (1, 1.5)))
    message = refused(lambda: combine_checkpoints(half, output=tmp_path / "out", weights=[-2.0, 3.0]))
    assert "reaches 100000, and float16" in message
    scaled = refused(lambda: combine_checkpoints(half, output=tmp_path / "out", weights=[1.0, 1.0], allow_any_sum=True))
    assert "reaches 100000" in scaled
    mixed = saved(tmp_path / "mixed", {"w": torch.tensor([1e6])}, {"w": torch.tensor([1.0]).half()})
    assert "reaches 500000, and float16" in refused(lambda: combine_checkpoints(mixed, output=tmp_path / "out"))


@pytest.mark.parametrize(("dtype", "largest"), F8.items(), ids=str)
def test_float8_overflows_to_what_is_no_number_and_is_refused(
    tmp_path: Path, dtype: torch.dtype, largest: float
) -> None:
    folder = saved(tmp_path / "in", *({"w": torch.tensor([largest / n, 1.0]).to(dtype)} for n in (1, 2)))
    message = refused(lambda: combine_checkpoints(folder, output=tmp_path / "out", weights=[3.0, -2.0]))
    assert f"reaches {2 * largest:.6g}, and {str(dtype).removeprefix('torch.')} ends at {largest:.6g}" in message
    assert float(load_file(combine_checkpoints(folder, output=tmp_path / "out") / "model.safetensors")["w"][1]) == 1.0


def test_one_checkpoint_alone_that_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "in", {"w": torch.tensor([1e5])}, {"w": torch.tensor([1.0])})
    message = refused(lambda: combine_checkpoints(folder, output=tmp_path / "out", dtype="float16", weights=[1.0, 0.0]))
    assert "`w` of `step-1.safetensors` is too large: it reaches 100000" in message
    same = saved(tmp_path / "same", *({"w": torch.tensor([1e5]), "b": torch.ones(1) * n} for n in (1, 2)))
    assert "reaches 100000" in refused(lambda: combine_checkpoints(same, output=tmp_path / "out", dtype="float16"))


@pytest.mark.parametrize("where", [0, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, BLOCK_ELEMENTS + 1])
def test_one_number_in_any_block_is_found(tmp_path: Path, where: int) -> None:
    states = []
    for number in (1.0, 2.0):
        weights = torch.zeros(BLOCK_ELEMENTS + 5)
        weights[where] = -1e5 * number
        states.append({"w": weights, "b": torch.ones(1) * number})
    message = refused(
        lambda: combine_checkpoints(saved(tmp_path / "in", *states), output=tmp_path / "o", dtype="float16")
    )
    assert "reaches 150000" in message


def test_a_complex_sum_overflows_too(tmp_path: Path) -> None:
    folder = saved(tmp_path / "in", *({"w": torch.tensor([complex(1.0, 3e38 / n)])} for n in (1, 2)))
    message = refused(lambda: combine_checkpoints(folder, output=tmp_path / "out", weights=[3.0, -2.0]))
    assert "reaches 6e+38, and complex64 ends at" in message


def test_many_large_numbers_whose_sum_is_infinite_are_no_overflow(tmp_path: Path) -> None:
    folder = saved(tmp_path / "in", *({"w": torch.full((8,), 3e38) / n} for n in (1, 2)))
    model = load_file(combine_checkpoints(folder, output=tmp_path / "out") / "model.safetensors")
    assert bool(torch.isfinite(model["w"]).all())


def test_a_checkpoint_that_holds_an_infinity_itself_is_still_named_for_that(tmp_path: Path) -> None:
    folder = saved(tmp_path / "in", {"w": torch.tensor([float("inf")])}, {"w": torch.tensor([1.0])})
    message = refused(lambda: combine_checkpoints(folder, output=tmp_path / "out", dtype="float16"))
    assert "`w` in `step-1.safetensors` holds 1 NaN or infinite values. Leave that checkpoint out" in message


def test_recomputed_statistics_that_do_not_fit_are_refused_at_writing(tmp_path: Path) -> None:
    made = [{"w": torch.ones(2) * n, "running_var": torch.ones(2)} for n in (1, 2)]
    checkpoints = discover(saved(tmp_path / "in", *made))
    recipe = Recipe(
        checkpoints=checkpoints,
        coefficients=Coefficients.whole_model(checkpoints.names, list(checkpoints.tensors), [0.5, 0.5]),
        output_dtypes=dict.fromkeys(checkpoints.tensors, torch.float16),
        statistics={"running_var": torch.tensor([1.0, 2e5])},
    )
    with open_all(checkpoints) as readers:
        assert recipe.tensor("w", readers).tolist() == [1.5, 1.5]
        message = refused(lambda: recipe.tensor("running_var", readers))
    assert "`running_var` of the average is too large: it reaches 200000, and float16" in message


def checkpoints_of(
    folder: Path, build: Callable[[], nn.Module], change: Callable[[int, dict[str, Tensor]], None]
) -> Path:
    states = []
    torch.manual_seed(0)
    for number in (1, 2, 3):
        state = {name: tensor.clone() for name, tensor in build().state_dict().items()}
        change(number, state)
        states.append(state)
    return saved(folder, *states)


def test_average_refuses_a_checkpoint_that_the_output_cannot_hold_before_any_training(tmp_path: Path) -> None:
    def huge(number: int, state: dict[str, Tensor]) -> None:
        state["0.weight"][0, 0] = 1e5 if number == 2 else 1.0

    folder = checkpoints_of(tmp_path / "in", plain_net, huge)
    stages: list[str] = []

    def listen(event: ProgressEvent) -> None:
        if isinstance(event, StageStarted):
            stages.append(event.stage)

    task = ToyTask(plain_net)
    message = refused(
        lambda: average(
            folder, folder, output=tmp_path / "out", task=task, method="twa", dtype="float16", progress=listen
        )
    )
    assert "`0.weight` of checkpoint `step-2.safetensors` is too large: it reaches 100000, and float16" in message
    assert "evaluate" in stages
    assert "train" not in stages


def test_average_refuses_statistics_that_the_output_cannot_hold(tmp_path: Path) -> None:
    def wide(number: int, state: dict[str, Tensor]) -> None:
        state["1.running_var"].fill_(1e5)

    folder = checkpoints_of(tmp_path / "in", norm_net, wide)
    message = refused(
        lambda: average(
            folder, folder, output=tmp_path / "out", task=ToyTask(norm_net), method="uniform", dtype="float16"
        )
    )
    assert "`1.running_var` of checkpoint `step-" in message
    assert "reaches 100000" in message


def test_an_average_that_overflows_where_no_checkpoint_does_is_refused_by_name(tmp_path: Path) -> None:
    def large(number: int, state: dict[str, Tensor]) -> None:
        state["0.weight"][0, 0] = 2e4 * number

    folder = checkpoints_of(tmp_path / "in", plain_net, large)
    with pytest.raises(MethodError) as caught:
        average(
            folder, folder, output=tmp_path / "out", task=ToyTask(plain_net), method="given",
            method_options={"coefficients": [-1.0, -1.0, 3.0]}, dtype="float16",
        )  # fmt: skip
    assert caught.value.code == "non-finite-loss"
    assert (
        "`0.weight` of the average is too large: it reaches 120000, and float16 ends at 65504" in caught.value.message
    )

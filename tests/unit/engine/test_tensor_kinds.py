"""Every kind of tensor that torch saves: averaged right, or refused by name, file and kind before anything else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ladle_engine import CheckpointError, average, check, combine_checkpoints, discover
from ladle_engine.checkpoints.tensor_kinds import same_bits
from ladle_engine.checkpoints.types import FLOATING_DTYPES, INTEGER_DTYPES, SUPPORTED_DTYPES
from ladle_engine.progress import ignore
from tests.unit.engine.toy import ToyTask

Make = Callable[[int], dict[str, Any]]


def two(folder: Path, make: Make, save: Callable[[Any, Path], None] = torch.save, **options: Any) -> dict[str, Tensor]:
    """Two checkpoints, made from 1 and from 2, combined."""
    folder.mkdir(exist_ok=True)
    suffix = "safetensors" if save is save_file else "pt"
    for number in (1, 2):
        save(make(number), folder / f"step-{number}.{suffix}")
    return load_file(combine_checkpoints(folder, output=folder / "out", **options) / "model.safetensors")


def refused(folder: Path, make: Make, save: Callable[[Any, Path], None] = torch.save) -> str:
    """What both entrances say."""
    with pytest.raises(CheckpointError) as caught:
        two(folder, make, save)
    assert caught.value.code == "unsupported-tensors", caught.value
    with pytest.raises(CheckpointError) as checked:
        check(discover(folder), ignore)
    assert checked.value.message == caught.value.message
    return caught.value.message


def grid(number: int) -> Tensor:
    return torch.arange(8.0).view(4, 2) * number


VIEWS: dict[str, Callable[[int], Tensor]] = {
    "column": lambda i: grid(i)[:, 0],
    "every second row": lambda i: grid(i)[::2],
    "transposed": lambda i: grid(i).t(),
    "expanded": lambda i: torch.tensor([float(i)]).expand(5),
    "expanded twice": lambda i: torch.tensor([[float(i)], [2.0 * i]]).expand(2, 3),
    "negative bit": lambda i: torch.complex(grid(i), grid(i)).conj().imag,
    "real part": lambda i: torch.complex(grid(i), grid(i)).real,
    "conjugate": lambda i: torch.complex(grid(i), grid(i)).conj(),
    "conjugate column": lambda i: torch.complex(grid(i), grid(i)).conj()[:, 1],
    "overlapping windows": lambda i: (torch.arange(5.0) * i).as_strided((3, 3), (1, 1)),
    "channels last": lambda i: torch.arange(48.0).mul(i).view(2, 3, 2, 4).to(memory_format=torch.channels_last),
    "end of a longer one": lambda i: (torch.arange(9.0) * i)[5:],
    "no dimension": lambda i: torch.tensor(float(i)),
    "no element": lambda i: torch.empty(0, 3),
    "parameter": lambda i: nn.Parameter(grid(i)),
    "buffer": lambda i: nn.Buffer(grid(i)),
    "parameter with an attribute": lambda i: tagged(nn.Parameter(grid(i))),
    "tensor with an attribute": lambda i: tagged(grid(i)),
    "that wants a gradient": lambda i: grid(i).requires_grad_(),
}


def tagged(tensor: Tensor) -> Tensor:
    tensor.tag = "x"  # type: ignore[attr-defined]
    return tensor


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_of_any_kind_gives_the_mean_of_its_values(tmp_path: Path, view: Callable[[int], Tensor]) -> None:
    model = two(tmp_path / "in", lambda i: {"w": view(i), "b": torch.ones(2) * i})
    expected = view(1).detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format) * 1.5
    assert torch.equal(model["w"], expected)
    assert model["b"].tolist() == [1.5, 1.5]


class Scaled(nn.Module):
    """A line; its slope is a vector that files may hold as a view."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = (x * self.w).sum(dim=1, keepdim=True)
        return result


@pytest.mark.parametrize("precision", ["float32", "streamed", "int8"])
def test_views_are_trained_on_as_their_values_are(tmp_path: Path, precision: str) -> None:
    for folder, of in ((tmp_path / "plain", lambda w: w.clone()), (tmp_path / "views", lambda w: w)):
        folder.mkdir()
        for number in (1, 2, 3):
            columns = torch.randn(6, 2, generator=torch.Generator().manual_seed(number))
            torch.save({"w": of(columns[:, 0])}, folder / f"step-{number}.pt")
    results = []
    for name in ("plain", "views"):
        average(
            tmp_path / name, tmp_path, output=tmp_path / f"out-{name}", task=ToyTask(Scaled), method="twa",
            method_options={"steps": 5}, precision=precision,
        )  # fmt: skip
        results.append(load_file(tmp_path / f"out-{name}" / "model.safetensors")["w"])
    assert torch.equal(*results)


SPECIAL: dict[str, tuple[Callable[[int], Any], str]] = {
    "meta": (lambda i: torch.ones(3, device="meta"), "a meta tensor"),
    "coo": (lambda i: grid(i).to_sparse(), r"sparse tensor \(sparse_coo\)"),
    "csr": (lambda i: grid(i).to_sparse_csr(), r"sparse tensor \(sparse_csr\)"),
    "csc": (lambda i: grid(i).to_sparse_csc(), r"sparse tensor \(sparse_csc\)"),
    "bsr": (lambda i: grid(i).to_sparse_bsr((2, 2)), r"sparse tensor \(sparse_bsr\)"),
    "nested": (lambda i: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested tensor"),
    "jagged": (lambda i: torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged), "nested tensor"),
    "qint8": (lambda i: torch.quantize_per_tensor(grid(i), 0.1, 0, torch.qint8), r"quantised tensor \(qint8\)"),
    "quint8": (lambda i: torch.quantize_per_tensor(grid(i), 0.1, 0, torch.quint8), r"quantised tensor \(quint8\)"),
    "qint32": (lambda i: torch.quantize_per_tensor(grid(i), 0.1, 0, torch.qint32), r"quantised tensor \(qint32\)"),
    "per channel": (
        lambda i: torch.quantize_per_channel(grid(i), torch.ones(2), torch.zeros(2), 1, torch.qint8),
        "quantised tensor",
    ),
    "lazy": (lambda i: nn.UninitializedParameter(), "a parameter of a lazy module"),
    "lazy buffer": (lambda i: nn.UninitializedBuffer(), "a buffer of a lazy module"),
    "untyped storage": (lambda i: grid(i).untyped_storage(), "a TypedStorage"),
    "array": (lambda i: grid(i).numpy(), "a numpy array"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "words"), SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("nested", [False, True])
def test_what_is_not_a_dense_tensor_is_refused_by_name_file_and_kind(
    tmp_path: Path, make: Callable[[int], Any], words: str, nested: bool
) -> None:
    def state(number: int) -> dict[str, Any]:
        weights = {"b": torch.ones(2) * number, "layer.w": make(number)}
        return {"model": weights, "epoch": number} if nested else weights

    message = refused(tmp_path / "in", state)
    assert "`layer.w` in `" in message
    assert "step-" in message
    assert re.search(words, message), message


@pytest.mark.parametrize("alone", [False, True])
def test_special_tensors_beside_the_weights_do_no_harm(tmp_path: Path, alone: bool) -> None:
    """An optimiser's state may be of any kind."""
    state = {"exp_avg": torch.quantize_per_tensor(grid(1), 0.1, 0, torch.qint8), "step": torch.ones(2).to_sparse()}
    optimizer = state if alone else {"state": {0: state}}
    model = two(tmp_path / "in", lambda i: {"model": {"w": torch.ones(2) * i}, "optimizer": optimizer})
    assert model["w"].tolist() == [1.5, 1.5]


DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)
NOT_SAVED = re.compile(r"qint32|u?int[1-7]$")
"""Types that torch itself does not save bare."""
BY_SAFETENSORS = {*SUPPORTED_DTYPES, torch.float4_e2m1fn_x2, torch.float8_e8m0fnu}


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize(
    ("dtype", "save"),
    [(dtype, torch.save) for dtype in DTYPES if not NOT_SAVED.search(str(dtype))]
    + [(dtype, save_file) for dtype in DTYPES if dtype in BY_SAFETENSORS],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_every_type_of_torchs_is_averaged_or_refused_by_name(
    tmp_path: Path, dtype: torch.dtype, save: Callable[[Any, Path], None]
) -> None:
    def state(number: int) -> dict[str, Tensor]:
        return {"w": filled(number, dtype), "b": torch.ones(2) * number}

    if dtype in FLOATING_DTYPES or dtype is torch.complex64:
        model = two(tmp_path / "in", state, save)
        assert model["w"].dtype is dtype
        wide = torch.complex128 if dtype.is_complex else torch.float64
        mean = (state(1)["w"].to(wide) + state(2)["w"].to(wide)) / 2
        assert torch.equal(model["w"].to(wide), mean.to(dtype).to(wide))
        check(discover(tmp_path / "in"), ignore)
    elif dtype in (torch.bool, torch.int64):
        assert torch.equal(two(tmp_path / "in", state, save)["w"], state(2)["w"])
        check(discover(tmp_path / "in"), ignore)
    elif dtype in INTEGER_DTYPES:
        assert "counters, but `w`" in refused(tmp_path / "in", state, save)
        model = two(tmp_path / "equal", lambda i: {**state(i), "w": filled(1, dtype)}, save)
        assert torch.equal(model["w"], filled(1, dtype)), "the same in all files, it may be anything"
    else:
        message = refused(tmp_path / "in", state, save)
        assert "`w` in `" in message
        assert str(dtype).removeprefix("torch.") in message


@pytest.mark.parametrize("dtype", sorted(SUPPORTED_DTYPES, key=str), ids=str)
def test_a_view_of_every_type_gives_its_values(tmp_path: Path, dtype: torch.dtype) -> None:
    columns = filled(1, torch.float32).to(dtype)[:, None].expand(3, 4).clone()
    model = two(tmp_path / "in", lambda i: {"w": columns[:, 1], "t": columns.t(), "b": torch.ones(2) * i})
    assert same_bits(model["w"], columns[:, 1].contiguous())
    assert same_bits(model["t"], columns.t().contiguous())


@pytest.mark.parametrize("dtype", sorted(FLOATING_DTYPES, key=str), ids=str)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "streamed"])
def test_coefficients_are_trained_on_every_floating_type(tmp_path: Path, dtype: torch.dtype, precision: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2, 3):
        values = torch.randn(6, generator=torch.Generator().manual_seed(number))
        torch.save({"w": values.to(dtype)}, folder / f"step-{number}.pt")
    average(
        folder, folder, output=tmp_path / "out", task=ToyTask(Scaled), method="twa", method_options={"steps": 3},
        precision=precision,
    )  # fmt: skip
    written = load_file(tmp_path / "out" / "model.safetensors")["w"]
    assert written.dtype is dtype
    assert bool(torch.isfinite(written.double()).all())


def filled(number: int, dtype: torch.dtype) -> Tensor:
    try:
        return torch.tensor([number, 2 * number, 0]).to(dtype)
    except (RuntimeError, NotImplementedError):
        # What torch cannot convert to, it takes as bytes.
        return torch.full((8 * dtype.itemsize,), number, dtype=torch.uint8).view(dtype)


def test_complex_weights_are_averaged_as_pairs_larger_than_a_block(tmp_path: Path) -> None:
    parts = [torch.randn(700_001, dtype=torch.complex64, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    model = two(tmp_path / "in", lambda i: {"w": parts[i - 1], "same": parts[0], "b": torch.ones(1) * i})
    mean = (parts[0].to(torch.complex128) + parts[1].to(torch.complex128)) / 2
    assert torch.equal(model["w"], mean.to(torch.complex64))
    assert torch.equal(model["same"], parts[0])
    narrow = two(
        tmp_path / "narrow",
        lambda i: {"w": parts[i - 1], "b": torch.ones(1) * i},
        dtype="float16",
        weights=[0.25, 0.75],
    )
    assert narrow["w"].dtype is torch.complex64, "only real tensors are converted"


def test_a_nan_in_a_complex_tensor_is_named(tmp_path: Path) -> None:
    def state(number: int) -> dict[str, Tensor]:
        imaginary = torch.tensor([1.0, float("nan") if number == 1 else 1.0])
        return {"w": torch.complex(torch.ones(2), imaginary), "b": torch.ones(2) * number}

    with pytest.raises(CheckpointError, match=r"`w` in `step-1\.pt` holds 1 NaN"):
        two(tmp_path / "in", state)
    with pytest.raises(CheckpointError, match=r"`w` in `step-1\.pt` holds 1 NaN"):
        check(discover(tmp_path / "in"), ignore)


class Spectral(nn.Module):
    """A line in front of a complex parameter or buffer."""

    def __init__(self, trained: bool) -> None:
        super().__init__()
        self.line = nn.Linear(6, 1)
        values = torch.ones(1, dtype=torch.complex64)
        if trained:
            self.phase = nn.Parameter(values)
        else:
            self.register_buffer("phase", values)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.line(x) * self.phase.real
        return result


@pytest.mark.parametrize(
    ("trained", "phases", "refusal"),
    [
        (True, (1j, 2j), "`phase` is complex"),
        (True, (1j, 1j), "`phase` is complex"),
        (False, (1j, 2j), "`phase` differs between `step-1.pt` and `step-2.pt`"),
        (False, (1j, 1j), None),
    ],
)
def test_a_complex_tensor_of_the_model_must_be_a_constant(
    tmp_path: Path, trained: bool, phases: tuple[complex, complex], refusal: str | None
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, phase in enumerate(phases, start=1):
        model = Spectral(trained)
        with torch.no_grad():
            model.phase.fill_(phase)
        torch.save(model.state_dict(), folder / f"step-{number}.pt")
    task = ToyTask(lambda: Spectral(trained))
    if refusal is None:
        average(folder, folder, output=tmp_path / "out", task=task, method="uniform")
        assert load_file(tmp_path / "out" / "model.safetensors")["phase"].tolist() == [1j]
        return
    with pytest.raises(CheckpointError) as caught:
        average(folder, folder, output=tmp_path / "out", task=task, method="uniform")
    assert refusal in caught.value.message
    assert task.losses_taken == 0


@pytest.mark.parametrize(
    ("in_file", "in_model"), [(torch.complex64, None), (torch.int8, "counters"), (torch.int64, None)]
)
def test_a_model_of_real_numbers_takes_neither_complex_nor_whole_ones(
    tmp_path: Path, in_file: torch.dtype, in_model: str | None
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2):
        state = {"w": torch.full((6,), number, dtype=in_file), "extra": torch.ones(1) * number}
        torch.save(state, folder / f"step-{number}.pt")
    with pytest.raises(Exception, match=in_model or "`w` to be float32, but in the checkpoints it is"):
        average(folder, folder, output=tmp_path / "out", task=ToyTask(Scaled), method="uniform")


def test_checkpoints_of_complex_weights_alone_are_combined_and_not_trained_on(tmp_path: Path) -> None:
    model = two(tmp_path / "in", lambda i: {"w": torch.full((6,), complex(i, i))})
    assert model["w"].tolist() == [1.5 + 1.5j] * 6
    with pytest.raises(CheckpointError, match="must be real numbers to be trained and judged"):
        average(tmp_path / "in", tmp_path, output=tmp_path / "out", task=ToyTask(Scaled))


def test_an_expanded_tensor_of_absurd_size_is_refused_and_not_made(tmp_path: Path) -> None:
    message = refused(tmp_path / "in", lambda i: {"w": torch.tensor([float(i)]).expand(10**11)})
    assert "a view that repeats 4 bytes until they are 400,000,000,000" in message


@pytest.mark.parametrize("value", [{"w": torch.ones(2, dtype=torch.int64)}, {"w": torch.ones(2, dtype=torch.bool)}])
def test_checkpoints_without_a_floating_tensor_are_refused(tmp_path: Path, value: dict[str, Tensor]) -> None:
    assert "must hold floating-point weights" in refused(tmp_path / "in", lambda i: value)


@pytest.mark.parametrize("dtype", [["F32"], {"a": 1}, None, 3, True, "F32\0"])
def test_a_dtype_that_is_not_a_name_is_refused(tmp_path: Path, dtype: object) -> None:
    text = json.dumps({"w": {"dtype": dtype, "shape": [2], "data_offsets": [0, 8]}}).encode()
    for number in (1, 2):
        (tmp_path / f"{number}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match="which Ladle does not know") as caught:
        discover(tmp_path)
    assert caught.value.code == "corrupt-checkpoint"


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"])
def test_types_of_safetensors_that_have_no_average_are_refused_by_name(tmp_path: Path, dtype: str) -> None:
    text = json.dumps({"w": {"dtype": dtype, "shape": [8], "data_offsets": [0, 8]}}).encode()
    for number in (1, 2):
        (tmp_path / f"{number}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(CheckpointError, match=r"`w` in `.*safetensors` is float") as caught:
        discover(tmp_path)
    assert caught.value.code == "unsupported-tensors"

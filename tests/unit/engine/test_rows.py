"""Rows: every precision against float64, at every awkward shape."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from ladle_engine.directions import offloaded_rows
from ladle_engine.directions import resident_rows as rows_module
from ladle_engine.directions.formats import BLOCK, ROW_PRECISIONS, Rows, row_bytes
from ladle_engine.directions.offloaded_rows import OffloadedRows, _StagingBuffers
from ladle_engine.directions.resident_rows import ResidentRows
from ladle_engine.directions.rows import make_rows

CPU = torch.device("cpu")
SHAPES = [(0, 100), (3, 0), (1, 1), (1, 64), (2, 63), (8, 65), (17, 1000), (33, 128), (300, 777)]
SMALL_SHAPES = SHAPES[:-1]
RELATIVE_ERROR = {"float32": (0.0, 0.0), "bfloat16": (1e-4, 2.5e-3), "int8": (1e-3, 1e-2), "int4": (0.1, 0.2)}
"""Of a Gaussian row: at least, at most. The lower bounds show that a precision is what its name says."""


def gaussian(count: int, length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, length, generator=torch.Generator().manual_seed(count + length), dtype=dtype)


def filled(precision: str, rows_NP: Tensor, chunk: int = 4 * BLOCK) -> Rows:
    rows = make_rows(precision, len(rows_NP), rows_NP.shape[1], CPU)
    for start in range(0, rows_NP.shape[1], chunk):
        rows.fill(start, rows_NP[:, start : start + chunk])
    return rows


def stored(rows: Rows, count: int, length: int) -> Tensor:
    """float32 [N, P]: what the rows give back, one unit weight at a time."""
    out_NP = torch.zeros(count, length)
    for n, weights_N in enumerate(torch.eye(count)):
        rows.expand_into(out_NP[n], weights_N)
    return out_NP


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks and groups of rows from small pieces."""
    monkeypatch.setattr(rows_module, "DECODED_ELEMENTS", 8 * BLOCK)
    monkeypatch.setattr(rows_module, "FLOAT32_CHUNK_LENGTH", 3 * BLOCK)
    monkeypatch.setattr(rows_module, "CHUNK_ROWS", 4)
    monkeypatch.setattr(offloaded_rows, "OFFLOAD_CHUNK_BYTES", 1 << 12)


@pytest.mark.parametrize("precision", ROW_PRECISIONS)
@pytest.mark.parametrize(("count", "length"), SMALL_SHAPES)
@pytest.mark.usefixtures("small_chunks")
def test_chunks_of_columns_and_groups_of_rows_add_up(precision: str, count: int, length: int) -> None:
    check_against_float64(precision, count, length)


@pytest.mark.parametrize("precision", ROW_PRECISIONS)
@pytest.mark.parametrize(("count", "length"), SHAPES)
def test_what_is_projected_and_combined_is_what_is_stored(precision: str, count: int, length: int) -> None:
    check_against_float64(precision, count, length)


def check_against_float64(precision: str, count: int, length: int) -> None:
    rows = filled(precision, gaussian(count, length))
    kept_NP = stored(rows, count, length).double()
    gradient_P, weights_N, before_P = gaussian(1, length)[0], gaussian(1, count)[0], torch.ones(length)
    out_P = before_P.clone()
    rows.expand_into(out_P, weights_N)
    combined_P = before_P + weights_N.double() @ kept_NP
    tolerance = 1e-5 * (1 + count**0.5)
    torch.testing.assert_close(out_P.double(), combined_P, atol=tolerance, rtol=0)
    projected_N = rows.project(gradient_P)
    assert projected_N.dtype is torch.float32
    tolerance = 1e-5 * (1 + length**0.5)
    torch.testing.assert_close(projected_N.double(), kept_NP @ gradient_P.double(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("precision", ROW_PRECISIONS)
def test_the_error_of_a_stored_row_is_that_of_its_tier(precision: str) -> None:
    rows_NP = gaussian(4, 5000)
    kept_NP = stored(filled(precision, rows_NP), 4, 5000)
    error_N = (kept_NP - rows_NP).norm(dim=1) / rows_NP.norm(dim=1)
    low, high = RELATIVE_ERROR[precision]
    assert low <= error_N.min()
    assert error_N.max() <= high


@pytest.mark.parametrize("precision", ROW_PRECISIONS)
def test_float64_rows_are_kept_like_their_float32_rounding(precision: str) -> None:
    rows_NP = gaussian(3, 1000, torch.float64)
    assert torch.equal(stored(filled(precision, rows_NP), 3, 1000), stored(filled(precision, rows_NP.float()), 3, 1000))


@pytest.mark.parametrize("precision", ROW_PRECISIONS)
def test_expand_is_the_transpose_of_project(precision: str) -> None:
    rows = filled(precision, gaussian(10, 100_001), chunk=1 << 14)
    gradient_P, weights_N = gaussian(1, 100_001)[0].abs(), gaussian(1, 10)[0]
    out_P = torch.zeros(100_001)
    rows.expand_into(out_P, weights_N)
    one, other = out_P.double() @ gradient_P.double(), weights_N.double() @ rows.project(gradient_P).double()
    scale = out_P.double().norm() * gradient_P.double().norm()
    assert abs(one - other) <= 1e-5 * scale


@pytest.mark.parametrize("precision", ROW_PRECISIONS)
def test_rows_of_zeros_leave_what_they_are_added_to_bit_for_bit(precision: str) -> None:
    rows_NP = gaussian(5, 300)
    rows_NP[:, 64:192] = 0
    out_P = gaussian(1, 300)[0]
    before_P = out_P.clone()
    rows = filled(precision, rows_NP)
    rows.expand_into(out_P, gaussian(1, 5)[0])
    assert torch.equal(out_P[64:192].view(torch.int32), before_P[64:192].view(torch.int32))
    assert not torch.equal(out_P[:64], before_P[:64])
    assert torch.equal(filled(precision, torch.zeros(5, 300)).project(before_P), torch.zeros(5))


@pytest.mark.parametrize("precision", ROW_PRECISIONS)
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-30, 1e30, 3e38])
def test_tiny_and_huge_rows_stay_finite(precision: str, size: float) -> None:
    rows_NP = gaussian(2, 200).clamp(-1, 1) * size
    kept_NP = stored(filled(precision, rows_NP), 2, 200)
    assert kept_NP.isfinite().all()
    assert kept_NP.abs().max() <= 1.01 * rows_NP.abs().max() + 1e-39
    if 1e-30 <= size <= 1e30:
        assert (kept_NP / size - rows_NP / size).norm() <= 0.2 * (rows_NP / size).norm()


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_rounding_the_scale_adds_no_error_to_codes_that_fit(precision: str) -> None:
    largest = {"int8": 127, "int4": 7}[precision]
    codes_NP = torch.randint(-largest, largest + 1, (3, 256), generator=torch.Generator().manual_seed(0)).float()
    codes_NP[:, ::64] = largest
    rows_NP = codes_NP * 0.0625
    assert torch.equal(stored(filled(precision, rows_NP), 3, 256), rows_NP)


def test_int4_holds_element_j_in_the_low_half_of_byte_j_and_j_plus_32_in_the_high_half() -> None:
    row_P = torch.zeros(BLOCK)
    row_P[3], row_P[3 + 32], row_P[5] = 7, -7, -2
    rows = ResidentRows.allocate("int4", 1, BLOCK, CPU)
    rows.fill(0, row_P[None])
    bytes_Q = rows.codes_NQ[0].view(torch.uint8)
    assert len(bytes_Q) == 32
    assert bytes_Q[3] == 0x97  # -7 is 9 in four bits
    assert bytes_Q[5] == 0x0E
    assert bytes_Q.count_nonzero() == 2


@pytest.mark.parametrize("precision", ROW_PRECISIONS)
@pytest.mark.parametrize("length", [0, 1, 64, 65, 1000])
def test_row_bytes_is_what_a_row_takes(precision: str, length: int) -> None:
    rows = ResidentRows.allocate(precision, 3, length, CPU)
    kept = [rows.codes_NQ] if rows.scales_NB is None else [rows.codes_NQ, rows.scales_NB]
    assert 3 * row_bytes(precision, length) == sum(tensor.untyped_storage().nbytes() for tensor in kept)
    assert row_bytes(f"offload:{precision}", length) == row_bytes(precision, length)


def test_each_tier_is_smaller_than_the_one_before() -> None:
    assert [row_bytes(precision, 6400) for precision in ROW_PRECISIONS] == [25_600, 12_800, 6_600, 3_400]


@pytest.mark.parametrize("precision", ROW_PRECISIONS)
@pytest.mark.parametrize(("count", "length"), SMALL_SHAPES)
@pytest.mark.usefixtures("small_chunks")
def test_offloaded_rows_equal_their_plain_tier(precision: str, count: int, length: int) -> None:
    rows_NP, gradient_P = gaussian(count, length), gaussian(1, length)[0]
    plain, offloaded = filled(precision, rows_NP), filled(f"offload:{precision}", rows_NP, chunk=3 * BLOCK)
    assert isinstance(offloaded, OffloadedRows)
    assert torch.equal(stored(offloaded, count, length), stored(plain, count, length))
    torch.testing.assert_close(offloaded.project(gradient_P), plain.project(gradient_P), atol=1e-4, rtol=1e-5)


class FakeStream:
    """Knows what is certain to have happened before what is queued next."""

    def __init__(self, device: object = None) -> None:
        self.known: set[object] = set()

    def record_event(self) -> frozenset[object]:
        return frozenset(self.known)

    def wait_event(self, event: frozenset[object]) -> None:
        self.known |= event


@dataclass
class FakeGpu:
    """Streams without a GPU: copies happen at once, and are checked to be ordered as a GPU would need them."""

    computing: FakeStream = field(default_factory=FakeStream)
    uses: dict[int, object] = field(default_factory=dict)
    """Address -> what read the memory there last."""
    copies: list[set[object]] = field(default_factory=list)
    """What each copy waited for."""
    current: FakeStream | None = None

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        self.current = stream
        yield
        self.current = None

    def copied_into(self, chunk: ResidentRows, memory: Tensor) -> ResidentRows:
        rows = copied_into(chunk, memory)
        assert self.current is not None, "copies are not queued behind products"
        if last := self.uses.get(memory.data_ptr()):
            assert last in self.current.known, "a copy overwrites what is still read"
        self.copies.append(set(self.current.known))
        self.current.known.add(("copied", rows.codes_NQ.data_ptr(), len(self.copies)))
        return rows

    def use(self, rows: ResidentRows, what: object) -> None:
        address = rows.codes_NQ.data_ptr()
        assert any(event[:2] == ("copied", address) for event in self.computing.known if isinstance(event, tuple))
        self.computing.known.add(what)
        self.uses[address] = what


copied_into = ResidentRows.copied_into


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake = FakeGpu()
    monkeypatch.setattr("torch.cuda.Stream", FakeStream)
    monkeypatch.setattr("torch.cuda.stream", fake.stream)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: fake.computing)
    monkeypatch.setattr(ResidentRows, "copied_into", lambda chunk, memory: fake.copied_into(chunk, memory))
    return fake


def through(staging: _StagingBuffers, precision: str, rows_NP: Tensor) -> OffloadedRows:
    rows = filled(f"offload:{precision}", rows_NP)
    assert isinstance(rows, OffloadedRows)
    rows._staging = staging
    return rows


@pytest.mark.parametrize("precision", ROW_PRECISIONS)
@pytest.mark.usefixtures("small_chunks", "gpu")
def test_rows_that_pass_through_the_landing_equal_their_plain_tier(precision: str) -> None:
    staging = _StagingBuffers(CPU, 1 << 14)
    for count, length in [(3, 0), (1, 1), (2, 63), (17, 1000), (5, 3000)]:
        rows_NP, gradient_P = gaussian(count, length), gaussian(1, length)[0]
        plain, landed = filled(precision, rows_NP), through(staging, precision, rows_NP)
        assert torch.equal(stored(landed, count, length), stored(plain, count, length))
        torch.testing.assert_close(landed.project(gradient_P), plain.project(gradient_P), atol=1e-4, rtol=1e-5)


@pytest.mark.usefixtures("small_chunks")
def test_no_copy_overwrites_what_is_read_and_none_waits_for_the_product_before_it(gpu: FakeGpu) -> None:
    """Over buckets of one chunk, of two and of several: a copy waits for the product but one before it."""
    staging = _StagingBuffers(CPU, 1 << 12)
    products: list[object] = []
    for bucket, length in enumerate([10, 20, 3000, 30, 40, 1000]):
        for _, rows in through(staging, "float32", gaussian(3, length))._stream():
            products.append((bucket, len(products)))
            gpu.use(rows, products[-1])
    assert len(products) > 10
    for index, waited_for in enumerate(gpu.copies):
        assert waited_for & set(products) == set(products[: max(index - 1, 0)])


@pytest.mark.usefixtures("small_chunks")
def test_what_is_still_arriving_when_a_product_fails_lands_first(gpu: FakeGpu) -> None:
    staging = _StagingBuffers(CPU, 1 << 12)
    stream = through(staging, "float32", gaussian(3, 3000))._stream()
    next(stream)
    assert isinstance(stream, Generator)
    stream.close()
    assert len(gpu.copies) == 2
    landed = {event[2] for event in gpu.computing.known if isinstance(event, tuple)}
    assert landed == {1, 2}


@pytest.mark.parametrize("precision", [*ROW_PRECISIONS, *(f"offload:{precision}" for precision in ROW_PRECISIONS)])
def test_a_gradient_that_is_not_contiguous_projects_the_same(precision: str) -> None:
    rows = filled(precision, gaussian(4, 300))
    spread_P = gaussian(300, 2)[:, 0]
    assert not spread_P.is_contiguous()
    torch.testing.assert_close(rows.project(spread_P), rows.project(spread_P.contiguous()), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("precision", ROW_PRECISIONS)
def test_pieces_of_several_million_elements_work(precision: str) -> None:
    length = 3_000_001
    row_P = gaussian(1, length)
    rows = filled(precision, row_P, chunk=1 << 20)
    out_P = torch.zeros(length)
    rows.expand_into(out_P, torch.tensor([2.0]))
    assert (out_P / 2 - row_P[0]).norm() <= max(RELATIVE_ERROR[precision][1], 1e-6) * row_P.norm()
    torch.testing.assert_close(rows.project(out_P)[0].double(), out_P.double() @ out_P.double() / 2, rtol=1e-4, atol=0)


def test_an_unknown_tier_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"`precision` must be one of float32, bfloat16, int8, int4.* but is 'int2'"):
        make_rows("int2", 1, 1, CPU)


class TorchKernels:
    """Stands for the kernels' module: as exact as torch, unless something is added."""

    def __init__(self, error: float = 0.0) -> None:
        self.error = error

    def project(self, precision: str, codes_NQ: Tensor, scales_NB: Tensor | None, gradient_P: Tensor) -> Tensor:
        return ResidentRows(precision, len(gradient_P), codes_NQ, scales_NB).project_by_torch(gradient_P) + self.error

    def expand_into(
        self, precision: str, codes_NQ: Tensor, scales_NB: Tensor | None, out_P: Tensor, weights_N: Tensor
    ) -> None:
        ResidentRows(precision, len(out_P), codes_NQ, scales_NB).expand_into_by_torch(out_P, weights_N)


class NoCompiler(TorchKernels):
    def expand_into(self, *arguments: object) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nMore.")


Probed = Callable[[object], tuple[object, str | None]]


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Probed]:
    """Tries a kernels' module as on a GPU with Triton; gives what is used for int8, and what failed."""
    compare = rows_module._compare_with_torch
    monkeypatch.setattr(
        rows_module, "_compare_with_torch", lambda kernels, precision, device: compare(kernels, precision, CPU)
    )
    gpu = torch.device("cuda")

    def probe(module: object) -> tuple[object, str | None]:
        monkeypatch.setattr(rows_module, "_installed_kernels", lambda: module)
        return rows_module._kernels("int8", gpu), rows_module.kernels_failure("int8", gpu)

    rows_module._probe.cache_clear()
    yield probe
    rows_module._probe.cache_clear()


def test_kernels_that_agree_with_torch_are_used(probed: Probed) -> None:
    kernels = TorchKernels()
    assert probed(kernels) == (kernels, None)


def test_kernels_that_cannot_be_compiled_are_not_used(probed: Probed) -> None:
    assert probed(NoCompiler()) == (
        None,
        "RuntimeError: Failed to find C compiler. Please specify via CC environment variable.",
    )


def test_kernels_that_are_wrong_are_not_used(probed: Probed) -> None:
    kernels, failure = probed(TorchKernels(error=0.01))
    assert kernels is None
    assert failure is not None
    assert "AssertionError" in failure


def test_kernels_are_tried_once_a_device(probed: Probed) -> None:
    first = probed(NoCompiler())
    assert probed(TorchKernels()) == first


def test_without_triton_no_kernels_are_missed(probed: Probed) -> None:
    assert probed(None) == (None, None)


def test_a_cpu_has_no_kernels_and_misses_none() -> None:
    assert rows_module._kernels("int8", CPU) is None
    assert rows_module.kernels_failure("int8", CPU) is None

"""The GPU kernels without a GPU: against the CPU form under Triton's interpreter, and compiled for an H100.

Triton reads `TRITON_INTERPRET` when it is imported, so each check runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ladle_engine.directions.formats import ROW_PRECISIONS
from ladle_engine.directions.resident_rows import ResidentRows
from tests.polling import DEADLINE_S

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: there is none for macOS or aarch64"
)

AGREE = """
import sys
import torch
from ladle_engine.directions import kernels
from ladle_engine.directions.resident_rows import ResidentRows, _compare_with_torch

kernels.UNITS = 32  # several programs and steps from small pieces
kernels.PROGRAMS = 2
tier = sys.argv[1]
_compare_with_torch(kernels, tier, torch.device("cpu"))
for count, length in [(0, 100), (3, 0), (1, 1), (2, 63), (10, 65), (17, 1000), (5, 3000)]:
    generator = torch.Generator().manual_seed(count)
    rows = ResidentRows.allocate(tier, count, length, torch.device("cpu"))
    rows.fill(0, torch.randn(count, length, generator=generator))
    gradient_P, weights_N = torch.randn(length, generator=generator), torch.randn(count, generator=generator)
    projected_N = kernels.project(tier, rows.codes_NQ, rows.scales_NB, gradient_P)
    again_N = kernels.project(tier, rows.codes_NQ, rows.scales_NB, gradient_P)
    assert torch.equal(projected_N, again_N)
    torch.testing.assert_close(projected_N, rows.project(gradient_P), atol=2e-4, rtol=1e-5)
    out_P, expected_P = torch.ones(length), torch.ones(length)
    kernels.expand_into(tier, rows.codes_NQ, rows.scales_NB, out_P, weights_N)
    rows.expand_into(expected_P, weights_N)
    torch.testing.assert_close(out_P, expected_P, atol=2e-5, rtol=1e-5)
    spread_P = torch.stack([gradient_P, gradient_P], dim=1)[:, 0]
    assert torch.equal(kernels.project(tier, rows.codes_NQ, rows.scales_NB, spread_P), projected_N)
print("agree")
"""


@pytest.mark.parametrize("precision", ROW_PRECISIONS)
def test_the_kernels_agree_with_the_cpu_form(precision: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", AGREE, precision],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "agree"


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["_project", "_expand"])
@pytest.mark.parametrize("precision", ROW_PRECISIONS)
def test_the_kernels_compile_for_an_h100(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str, kernel: str
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert compiled(kernel, precision).startswith(ELF)
    # As Triton does with a whole number that is 1: it becomes part of the program.
    assert compiled(kernel, precision, count=1, steps=1).startswith(ELF)


ELF = b"\x7fELF"


def compiled(name: str, precision: str, **fixed: int) -> bytes:
    """The program for compute capability 9.0."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ladle_engine.directions import kernels

    kernel = getattr(kernels, name)
    rows = ResidentRows.allocate(precision, 1, 1, torch.device("cpu"))
    unit_bytes, tile_rows = {
        "_project": (kernels.PROJECT_UNIT_BYTES, kernels.PROJECT_ROWS),
        "_expand": (kernels.EXPAND_UNIT_BYTES, kernels.EXPAND_ROWS),
    }[name]
    constants: dict[str, object] = {
        "TIER": precision,
        "V": unit_bytes[precision] // rows.codes_NQ.element_size(),
        "ROWS": tile_rows[precision],
        "UNITS": kernels.UNITS,
        **({"scales": None} if rows.scales_NB is None else {}),
        **{name: value for name, value in fixed.items() if name in kernel.arg_names},
    }
    pointers = {
        "codes": {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int8: "*i8"}[rows.codes_NQ.dtype],
        "scales": "*bf16",
        **dict.fromkeys(("gradient", "partial_SN", "out", "weights"), "*fp32"),
    }
    types = {
        argument: "constexpr" if argument in constants else pointers.get(argument, "i32")
        for argument in kernel.arg_names
    }
    source = ASTSource(kernel, types, constants)
    cubin: bytes = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": kernels.WARPS}).asm["cubin"]
    return cubin

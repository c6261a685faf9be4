"""The GPU kernels against the CPU form, on the CPU, under Triton's interpreter.

Triton reads `TRITON_INTERPRET` when it is imported, so each check runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from ladle_engine.rows import TIERS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: it comes with torch for CUDA"
)

CHECK = """
import sys
import torch
from ladle_engine import kernels
from ladle_engine.rows import ResidentRows, _compare_with_torch

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


@pytest.mark.parametrize("tier", TIERS)
def test_the_kernels_agree_with_the_cpu_form(tier: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK, tier], env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "agree"

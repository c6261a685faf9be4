"""A large `.pt` costs what its model costs: what lies beside the model is not read, and nothing is in memory whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ladle_engine import combine_checkpoints, discover
from ladle_engine.storage.input_file import COUNTS

MODEL_NUMBERS, BESIDE_NUMBERS = 20_000, 1_500_000


def checkpoint(number: int) -> dict[str, Any]:
    model = {"w": torch.full((MODEL_NUMBERS,), float(number)), "view": torch.ones(8, 8)[:, ::2] * number}
    moments = {0: {"exp_avg": torch.randn(BESIDE_NUMBERS), "exp_avg_sq": torch.randn(BESIDE_NUMBERS)}}
    return {"model": model, "optimizer": {"state": moments}, "history": list(range(5_000)), "notes": "x" * 2_000_000}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_states_of_optimisers_are_never_read(tmp_path: Path, zipped: bool) -> None:
    paths = [tmp_path / f"epoch-{number}.pt" for number in (1, 2)]
    for number, path in enumerate(paths, start=1):
        torch.save(checkpoint(number), path, _use_new_zipfile_serialization=zipped)
    COUNTS.clear()
    found = discover(tmp_path)
    opening = max(COUNTS.bytes[path] for path in paths)
    combine_checkpoints(tmp_path, output=tmp_path / "out")
    model_bytes = 4 * (MODEL_NUMBERS + 64)
    assert set(found.tensors) == {"w", "view"}
    for path in paths:
        assert opening < 1_500_000, "headers alone, and of the pickle not the long text"
        assert COUNTS.bytes[path] < 4 * (opening + model_bytes) < path.stat().st_size / 2


PROGRAM = """
import sys, pathlib, torch
from ladle_engine import discover
from ladle_engine.checkpoints.readers import open_all

def memory(which):
    return int(dict(line.split(":", 1) for line in open("/proc/self/status"))[which].split()[0]) >> 10

before = memory("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
part = torch.empty(1 << 18)
with open_all(discover(pathlib.Path(sys.argv[1]))) as readers:
    for reader in readers:
        for start in range(0, 16 << 20, len(part)):
            reader.read_into("w", start, part)
print(memory("VmHWM") - before)
"""


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_a_tensor_is_read_by_slice_whatever_its_size(tmp_path: Path, form: str) -> None:
    for number in (1, 2):
        tensors = {"w": torch.full((16 << 20,), float(number))}
        if form == "pt":
            torch.save({"model": tensors}, tmp_path / f"step-{number}.pt")
        else:
            save_file(tensors, tmp_path / f"step-{number}.safetensors")
    taken_mb = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    assert int(taken_mb.stdout) < 32, "of two tensors of 64 MB"

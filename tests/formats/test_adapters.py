"""Sweeps of PEFT's adapters: the average is an adapter that PEFT loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ladle_engine import combine_checkpoints
from tests.formats.kinds import Kind
from tests.formats.tool import writing


@pytest.mark.parametrize("ranks", ["4,4,4,4", "2,4,8"])
def test_the_average_of_adapters_changes_the_base_by_the_mean_of_their_changes(tmp_path: Path, ranks: str) -> None:
    kind = Kind(name="peft", script="peft_train", tools=("trainers",), environment={"RANKS": ranks}, found=(), order="")
    with writing(kind, tmp_path / "run", tmp_path / "mean.safetensors") as tool:
        result = combine_checkpoints(tmp_path / "run", output=tmp_path / "result", adapter_error=0.0)
        assert json.loads((result / "adapter_config.json").read_text())["peft_type"] == "LORA"
        tool.use(result)

"""What Ladle does not read is named, with the command that converts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ladle_engine import combine_checkpoints
from ladle_engine.errors import CheckpointError
from tests.formats.kinds import Kind
from tests.formats.tool import writing


def test_zero_stage_3_is_named_with_its_own_script(tmp_path: Path) -> None:
    stage = {"STAGE": "3", "CONVERT": "1"}
    kind = Kind(name="zero-3", script="deepspeed_train", tools=("deepspeed",), environment=stage, found=(), order="")
    with writing(kind, tmp_path / "run", tmp_path / "mean.safetensors"):
        with pytest.raises(CheckpointError, match=r"DeepSpeed format.*zero_to_fp32\.py"):
            combine_checkpoints(tmp_path / "run", pattern="global_step*", output=tmp_path / "result")
        assert (tmp_path / "run" / "zero_to_fp32.py").is_file()

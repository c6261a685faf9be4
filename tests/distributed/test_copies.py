"""Ranks that see copies of the files, as nodes without a shared disk do, go on from what rank 0 has saved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.distributed.copies_rank import STEPS
from tests.distributed.start import start
from tests.unit.engine.toy import plain_net, write_checkpoints

pytestmark = pytest.mark.slow

DIES_AFTER = 6


def run_ranks(folder: Path, name: str, dies_after: int = 0) -> int:
    """The exit status."""
    return start(2, "-m", "tests.distributed.copies_rank", str(folder), name, str(dies_after)).returncode


def batches(folder: Path, name: str) -> list[int]:
    """That each rank trained on."""
    return [int((folder / f"{name}-{rank}.batches").read_text()) for rank in range(2)]


def test_ranks_on_copies_resume_from_the_same_step(tmp_path: Path) -> None:
    write_checkpoints(tmp_path / "rank-0" / "checkpoints", plain_net)
    (tmp_path / "rank-0" / "val").mkdir()
    (tmp_path / "rank-0" / "val" / "examples").write_text("the toy makes its own")
    # At another place, and without the times of the last change.
    shutil.copytree(tmp_path / "rank-0", tmp_path / "rank-1", copy_function=shutil.copy)

    assert run_ranks(tmp_path, "whole") == 0
    assert run_ranks(tmp_path, "resumed", DIES_AFTER) != 0
    assert not (tmp_path / "resumed").exists()
    assert run_ranks(tmp_path, "resumed") == 0

    uninterrupted = batches(tmp_path, "whole")
    assert batches(tmp_path, "resumed") == [each - DIES_AFTER for each in uninterrupted]
    assert min(uninterrupted) >= STEPS
    whole, resumed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed"))
    assert whole == resumed
    assert not (tmp_path / "rank-1" / "state-resumed").exists(), "rank 0 alone writes"

"""Ranks read no more than one process does, and a file that changes on one of them ends all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.start import run_module
from tests.unit.engine.test_reading import SMALL, as_files

pytestmark = pytest.mark.slow


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    as_files(tmp_path / "rank-0", "safetensors")
    shutil.copytree(tmp_path / "rank-0", tmp_path / "rank-1", copy_function=shutil.copy)
    return tmp_path


def run_ranks(folder: Path, changing: int = -1) -> list[dict[str, Any]]:
    """What each of two ranks says."""
    run_module("tests.distributed.reading_rank", 2, str(folder), "out", str(changing))
    return [json.loads((folder / f"out-{rank}.json").read_text()) for rank in range(2)]


def test_two_ranks_read_all_files_three_times_at_most_each(copies: Path) -> None:
    for rank, said in enumerate(run_ranks(copies)):
        print(f"rank {rank}: {said['readings']:.2f} readings, {said['openings']} opening(s) of each file")
        assert said["readings"] <= 3 + SMALL
        assert said["openings"] == 1
    report = json.loads((copies / "out" / "report.json").read_text())
    assert all(len(digest) == 64 for each in report["checkpoints"] for digest in each["files"].values())


@pytest.mark.parametrize("changing", [0, 1])
def test_a_copy_that_changes_on_one_rank_ends_all_ranks(copies: Path, changing: int) -> None:
    for said in run_ranks(copies, changing):
        assert said["code"] == "inputs-changed"
        assert f"`{copies / f'rank-{changing}' / 'step-2.safetensors'}`" in said["message"]
    assert not (copies / "out").exists()

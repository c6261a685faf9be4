"""What a report shows is the same on 1, 2 and 4 ranks, in every placement; the bytes are those of all ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ladle_engine.placements.base import REPLICATED
from tests.distributed import diagnosis_rank
from tests.distributed.diagnosis_rank import PLACED, report
from tests.distributed.start import run_module
from tests.unit.engine.toy import norm_net, write_checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("diagnosis")
    write_checkpoints(made / "checkpoints", norm_net)
    diagnosis_rank.run(made, REPLICATED, ranks=1)
    return made


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_show_what_one_process_shows(folder: Path, ranks: int) -> None:
    run_module("tests.distributed.diagnosis_rank", ranks, str(folder))
    read = [json.loads((folder / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]
    alone = report(folder, REPLICATED, ranks=1)
    for placement in PLACED[ranks]:
        found = report(folder, placement, ranks)
        for key in ("diagnosis", "merge_curve", "training", "tensors"):
            close(found[key], alone[key], f"{placement} {key}")
        assert [row["stage"] for row in found["stages"]] == [row["stage"] for row in alone["stages"]]
        shown = sum(row["bytes_read"] for row in found["stages"] if row["stage"] not in ("write", "verify"))
        assert shown == sum(each[placement] for each in read)


def close(found: Any, expected: Any, where: str) -> None:
    """The same but for rounding."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for name, value in expected.items():
            close(found[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            close(found[number], value, f"{where}.{number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4), where
    else:
        assert found == expected, where

"""A merge curve is the same on 1, 2 and 4 ranks, which share its averages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ladle_engine.placements.base import SHARDED_MODEL
from tests.distributed import curve_rank
from tests.distributed.curve_rank import GROWN, WHOLE, found
from tests.distributed.start import run_module
from tests.unit.engine.toy import norm_net, write_checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("curve")
    (made / "val").touch()
    write_checkpoints(made / "checkpoints", norm_net, count=6)
    curve_rank.run(made, WHOLE, ranks=1)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_draw_what_one_process_draws_and_take_the_same_of_an_earlier_curve(folder: Path, ranks: int) -> None:
    run_module("tests.distributed.curve_rank", ranks, str(folder))
    alone = found(folder, WHOLE, ranks=1)
    for placement in (WHOLE, SHARDED_MODEL):
        close(found(folder, placement, ranks), alone, placement)
        grown = folder / f"{ranks} {placement}{GROWN}"
        assert json.loads((grown / "report.json").read_text())["evaluated"]["earlier"]["models"] > 0
        for file in ("curve.json", "evaluations.safetensors"):
            assert (grown / file).read_bytes() == (folder / f"{ranks} {placement}" / file).read_bytes(), placement


def close(found: Any, expected: Any, where: str) -> None:
    """The same but for rounding."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for name in expected.keys() - {"words", "evaluations"}:
            close(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            close(found[number], value, f"{where}.{number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6), where
    else:
        assert found == expected, where

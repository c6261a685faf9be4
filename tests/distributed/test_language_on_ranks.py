"""Language models come to the same on two ranks as on one, also where each rank has half of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ladle_engine.placements.base import REPLICATED, SHARDED_MODEL
from tests.distributed.language_rank import KINDS
from tests.distributed.start import run_module
from tests.unit.tasks.language_models import LINES, causal_folder

pytestmark = pytest.mark.slow

PLACEMENTS = (REPLICATED, SHARDED_MODEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("language")
    for kind in KINDS:
        causal_folder(made / kind, kind, steps=4)
    (made / "val.txt").write_text(LINES * 4)
    run_module("tests.distributed.language_rank", 1, str(made), REPLICATED)
    run_module("tests.distributed.language_rank", 2, str(made), *PLACEMENTS)
    return made


def results(folder: Path, run: str) -> tuple[dict[str, Any], dict[str, float]]:
    """Coefficients of the candidates, and their losses."""
    report, coefficients = (
        json.loads((folder / run / f"{file}.json").read_text()) for file in ("report", "coefficients")
    )
    return coefficients["candidates"], {row["method"]: row["select"]["loss"] for row in report["candidates"]}


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_come_to_what_one_comes_to(folder: Path, kind: str, placement: str) -> None:
    one, two = results(folder, f"{kind}, {REPLICATED}, 1"), results(folder, f"{kind}, {placement}, 2")
    assert "twa" in one[0]
    for method, entry in one[0].items():
        torch.testing.assert_close(
            torch.tensor(two[0][method]["alpha"]), torch.tensor(entry["alpha"]), rtol=0, atol=1e-4
        )
    assert two[1] == pytest.approx(one[1], rel=1e-5)

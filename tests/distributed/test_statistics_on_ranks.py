"""Running statistics are the same on two ranks as on one, whatever kind of module keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.start import run_module
from tests.distributed.statistics_rank import BUILDS
from tests.unit.engine.toy import write_checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("statistics")
    for name, build in BUILDS.items():
        write_checkpoints(made / name, build, count=4)
    for ranks in (1, 2):
        run_module("tests.distributed.statistics_rank", ranks, str(made))
    return made


def results(folder: Path, run: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, torch.Tensor]]:
    """What was chosen, the coefficients, and the statistics."""
    report, coefficients = (
        json.loads((folder / run / f"{file}.json").read_text()) for file in ("report", "coefficients")
    )
    return report["statistics"], coefficients["candidates"], load_file(folder / run / "statistics.safetensors")


@pytest.mark.parametrize("name", BUILDS)
def test_two_ranks_make_the_statistics_that_one_makes(folder: Path, name: str) -> None:
    one = results(folder, f"{name}, replicated, 1")
    runs = ["replicated", "sharded-model"] if name == "spectra" else ["replicated"]
    for two in (results(folder, f"{name}, {placement}, 2") for placement in runs):
        assert two[0]["mixtures"] == one[0]["mixtures"]
        assert two[0]["values_per_channel"] == one[0]["values_per_channel"]
        assert two[0]["fit_loss"] == pytest.approx(one[0]["fit_loss"], rel=1e-5)
        for method, entry in one[1].items():
            torch.testing.assert_close(
                torch.tensor(two[1][method]["alpha"]), torch.tensor(entry["alpha"]), rtol=0, atol=1e-5
            )
        assert two[2].keys() == one[2].keys()
        for tensor, expected in one[2].items():
            torch.testing.assert_close(two[2][tensor], expected, rtol=1e-4, atol=1e-5, msg=tensor)


def test_both_ways_are_taken_in_these_jobs(folder: Path) -> None:
    ways = {results(folder, f"{name}, replicated, 2")[0]["mixtures"] for name in BUILDS}
    assert ways == {"averaged", "recomputed"}


def test_a_batch_norm_that_cannot_be_the_same_on_all_ranks_is_refused_on_each(folder: Path) -> None:
    for rank in (0, 1):
        message = (folder / f"refused-{rank}").read_text()
        assert message.startswith("The statistics of a `OnItsOwn` must be made by `batch_norm`")
    assert not (folder / "refused").exists()

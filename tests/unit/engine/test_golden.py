"""What every method chooses on one small problem, held to numbers in a file: a refactoring must not move them.

`python -m tests.unit.engine.test_golden` writes the file anew, where a change was meant.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ladle_engine import average
from tests.builders import WITHOUT_BASE, quick_options
from tests.unit.engine.toy import ToyTask, norm_net, plain_net, write_checkpoints

GOLDEN = Path(__file__).with_name("golden_methods.json")
NETS = {"plain": plain_net, "batch-norm": norm_net}
COUNT = 5
TOLERANCE = 1e-5
"""Processors round differently; a change of the algorithm moves coefficients by far more."""


def chosen_by_all(net: str, folder: Path) -> dict[str, Any]:
    """Method -> its coefficients by group, and its loss on the select split."""
    build = NETS[net]
    write_checkpoints(folder / "checkpoints", build, count=COUNT)
    options = {"methods": WITHOUT_BASE, "options": quick_options(COUNT)}
    task = ToyTask(build, count=128)
    average(folder / "checkpoints", folder, output=folder / "out", task=task, method_options=options)
    report = json.loads((folder / "out" / "report.json").read_text())
    return {
        each["method"]: {"coefficients": each["coefficients"], "loss": each["select"]["loss"]}
        for each in report["candidates"]
    }


@pytest.mark.parametrize("net", NETS)
def test_every_method_chooses_what_it_chose_before(net: str, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())[net]
    found = chosen_by_all(net, tmp_path)
    assert list(found) == list(golden) == WITHOUT_BASE
    for method, expected in golden.items():
        assert found[method]["loss"] == pytest.approx(expected["loss"], abs=TOLERANCE), method
        assert len(found[method]["coefficients"]) == len(expected["coefficients"]), method
        for group, coefficients in enumerate(expected["coefficients"]):
            assert found[method]["coefficients"][group] == pytest.approx(coefficients, abs=TOLERANCE), method


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 8)
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = {net: rounded(chosen_by_all(net, Path(folder) / net)) for net in NETS}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

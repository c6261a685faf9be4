"""The notebooks run from top to bottom, and what they printed is kept small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docs.site.notebooks import FOLDER, run

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Jupyter's own
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_as_much_as_it_did(notebook: Path, tmp_path: Path) -> None:
    kept, now = json.loads(notebook.read_text()), run(notebook, tmp_path)
    assert [len(cell.get("outputs", ())) for cell in now["cells"]] == [
        len(cell.get("outputs", ())) for cell in kept["cells"]
    ]
    assert any(cell.get("outputs") for cell in kept["cells"])
    assert notebook.stat().st_size < 100_000

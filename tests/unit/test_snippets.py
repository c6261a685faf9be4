"""The Python snippets of the README and of docs/engine.md run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import make_checkpoints, make_val_set
from tests.polling import DEADLINE_S

REPOSITORY = Path(__file__).parents[2]


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL)


IN_PROCESS = [
    *(text for text in snippets("README.md") if "ladle_engine" in text),
    *snippets("docs/engine.md"),
]
"""Those that need no service; `tests/e2e` and `tests/integration/test_api_docs.py` have the others."""


def test_there_are_snippets_of_both_pages() -> None:
    assert len(IN_PROCESS) >= 3


@pytest.mark.parametrize("snippet", IN_PROCESS, ids=range(len(IN_PROCESS)))
def test_a_snippet_runs(snippet: str, tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "path/to/checkpoints")
    make_val_set(tmp_path / "path/to/val.npz")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet], cwd=tmp_path, env=dict(os.environ), capture_output=True,
        text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

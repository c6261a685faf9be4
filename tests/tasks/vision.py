"""timm and torchvision for tests: in child processes alone, because torchvision breaks transformers beside a CPU torch.

`make test-tasks` installs both into a folder of their own. Where that is not there, the tests that need it are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / ".cache" / "vision"
SHIM = Path(__file__).parent / "shim"

needs_vision = pytest.mark.skipif(
    not (FOLDER / "timm").is_dir(), reason="timm and torchvision are not in .cache/vision: run `make test-tasks`"
)


def vision_environment(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Of a process that has both libraries."""
    found = dict(os.environ if environment is None else environment)
    paths = [str(SHIM), str(FOLDER), *filter(None, [found.get("PYTHONPATH")])]
    return found | {"PYTHONPATH": os.pathsep.join(paths)}

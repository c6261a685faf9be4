"""The trackers' own libraries, each in a folder of its own that `make test-trackers` fills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

INSTALLED = Path(__file__).parents[2] / ".cache" / "trackers"


def variables(library: str, **more: str) -> dict[str, str]:
    """What makes the library importable in a child process, and nothing that this machine has set for it."""
    folder = INSTALLED / library
    assert (folder / ".installed").exists(), f"`{library}` is not installed: run `make test-trackers`."
    paths = [str(folder), os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[2])]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONWARNINGS": "ignore", **more}


def read(library: str, code: str, *arguments: str, environment: Mapping[str, str] = {}) -> Any:
    """What a piece of Python prints as JSON at the end, with the library at hand."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **variables(library), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])

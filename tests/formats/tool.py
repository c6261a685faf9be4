"""Scripts run in their tools' environments, which `make test-formats` installs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.formats.kinds import Kind

REPOSITORY = Path(__file__).parents[2]
INSTALLED = REPOSITORY / ".cache" / "tools"
SCRIPTS = Path(__file__).parent / "scripts"
SHIM = REPOSITORY / "tests" / "tasks" / "shim"
LIMIT_S = 600.0


def write(kind: Kind, folder: Path, mean: Path) -> None:
    """Lets the tool train and save into `folder`, and writes the mean of what it loads from there into the file."""
    _run(kind, "write", folder, mean)


def use(kind: Kind, folder: Path, result: Path) -> None:
    """Loads Ladle's result in the tool. Raises `AssertionError` where that fails."""
    _run(kind, "use", folder, result)


def _run(kind: Kind, *arguments: str | Path) -> None:
    script = SCRIPTS / f"{kind.script}.py"
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env=_environment(kind),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{script.name} {arguments[0]} ended with {done.returncode}:\n{done.stderr[-4000:]}"


def _environment(kind: Kind) -> dict[str, str]:
    for group in kind.tools:
        assert (INSTALLED / group / ".installed").exists(), f"`{group}` is not installed: run `make test-formats`."
    paths = [str(SHIM), *(str(INSTALLED / group) for group in kind.tools), os.environ.get("PYTHONPATH", "")]
    offline = {"HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | offline | kind.environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

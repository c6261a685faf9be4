"""Follows a page from top to bottom, as a reader would.

Each Python snippet is a script, and each console snippet goes to a shell.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.snippets import CONSOLE, snippets_of
from tests.polling import DEADLINE_S


def follow(page: str, folder: Path) -> str:
    """Runs the snippets of the page in `folder`, in order. What they printed; a snippet that fails is raised."""
    said = []
    for snippet in snippets_of(page):
        if snippet.why_not is None and snippet.language in ("python", *CONSOLE):
            program = [sys.executable, "-c"] if snippet.language == "python" else ["bash", "-euo", "pipefail", "-c"]
            said.append(run([*program, snippet.text], folder, snippet.name))
    return "".join(said)


def run(command: list[str], folder: Path, name: str) -> str:
    """One program, in the environment of a person who has Ladle installed and no stack of their own running."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LADLE_", "REDIS_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    # A unix socket's path is short, and pytest's folders are not.
    ours = {"PATH": path, "XDG_STATE_HOME": str(folder / "s"), "TMPDIR": "/tmp", "COLUMNS": "110"}
    done = subprocess.run(
        command, cwd=folder, env=kept | ours, capture_output=True, text=True, timeout=3 * DEADLINE_S, check=False
    )
    assert done.returncode == 0, f"{name}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr

"""Task plug-ins as pip would install them, but in a folder of the test's own."""

from __future__ import annotations

from pathlib import Path

IMPORTS = """\
import os
import signal
import sys

import torch

from ladle_engine.errors import DataError, TaskError
from ladle_small_cnn import SmallCnnTask


"""


def install(folder: Path, name: str, source: str, *, target: str = "Task", version: str = "1.0") -> Path:
    """Writes a distribution with one module and one entry point, `name`; the module's path.

    It is there for every process that has `folder` on its path. The module is the name with `_`, the source stands
    below `IMPORTS`.
    """
    module = name.replace("-", "_")
    information = folder / f"{module}-{version}.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (information / "entry_points.txt").write_text(f"[ladle.tasks]\n{name} = {module}:{target}\n")
    file = folder / f"{module}.py"
    file.write_text(IMPORTS + source)
    return file


def task_source(name: str, body: str) -> str:
    """A class `Task` like the small CNN's, which recognises nothing, with this body."""
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    return (
        f'class Task(SmallCnnTask):\n    name = "{name}"\n\n'
        f"    @classmethod\n    def recognises(cls, checkpoints):\n        return False\n\n{indented}"
    )


def line_of(file: Path, words: str) -> int:
    """The number of the line that holds these words."""
    return next(number for number, line in enumerate(file.read_text().splitlines(), start=1) if words in line)

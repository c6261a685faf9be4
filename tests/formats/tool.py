"""Scripts run in their tools' environments, which `make test-formats` installs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.formats.kinds import Kind

REPOSITORY = Path(__file__).parents[2]
INSTALLED = REPOSITORY / ".cache" / "tools"
SCRIPTS = Path(__file__).parent / "scripts"
SHIM = REPOSITORY / "tests" / "tasks" / "shim"


class Tool:
    """A process of the tool that has written its folder, and waits for what Ladle makes of it."""

    def __init__(self, process: subprocess.Popen[str], said: IO[str]) -> None:
        self._process, self._said = process, said

    def wait_until_written(self) -> None:
        assert self._process.stdout is not None
        written = any(line.strip() == "written" for line in self._process.stdout)
        assert written, f"nothing was written:\n{self._errors()}"

    def use(self, result: Path) -> None:
        """Loads Ladle's result. Raises `AssertionError` where that fails."""
        self._process.communicate(f"{result}\n")
        assert self._process.returncode == 0, f"the tool does not load the result:\n{self._errors()}"

    def _errors(self) -> str:
        self._process.wait()
        self._said.seek(0)
        return self._said.read()[-4000:]


@contextmanager
def writing(kind: Kind, folder: Path, mean: Path) -> Iterator[Tool]:
    """Lets the tool train and save into `folder`, and writes the mean of what it loads from there into the file."""
    with (mean.parent / "errors.txt").open("w+", errors="replace") as said:
        process = subprocess.Popen(
            [sys.executable, SCRIPTS / f"{kind.script}.py", folder, mean],
            env=environment(kind.tools, mean.parent) | kind.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            errors="replace",
        )
        with process:
            try:
                tool = Tool(process, said)
                tool.wait_until_written()
                yield tool
            finally:
                process.kill()


def run(script: str, *arguments: str, tools: Sequence[str], folder: Path) -> None:
    """Runs a script in its tools' environment, and in `folder`, to its end."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / f"{script}.py", *arguments], env=environment(tools, folder), cwd=folder,
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def environment(tools: Sequence[str], home: Path) -> dict[str, str]:
    """The variables of a process in which the groups of tools can be imported."""
    for group in tools:
        assert (INSTALLED / group / ".installed").exists(), f"`{group}` is not installed: run `make test-formats`."
    paths = [str(SHIM), *(str(INSTALLED / group) for group in tools), os.environ.get("PYTHONPATH", "")]
    fixed = {"HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    # What DeepSpeed compiles. In the usual folder, the lock of a run that was killed would be waited for without end.
    fixed["TORCH_EXTENSIONS_DIR"] = str(home / "extensions")
    return {**os.environ, **fixed, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

"""Asks the server, which reads files of strangers, how it fared with one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Answer:
    outcome: str
    """`read`, `refused` or `fault`."""
    cpu_s: float
    reason: str = ""
    """Of a refusal."""
    message: str = ""
    what: str = ""
    """The fault."""
    trace: str = ""
    taken_mb: int = 0
    """Of memory at most, beside what the process had when it began."""

    def __str__(self) -> str:
        told = self.reason or self.what
        return f"{self.outcome} {told} {self.message} ({self.cpu_s} s, {self.taken_mb} MB)\n{self.trace}".strip()


class Reader:
    """The server, and a folder in which files are made for it."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="ladle-fuzz-"))
        temporary = self._home / "tmp"
        temporary.mkdir()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # It writes in no folder but its own, asks no model hub, and arenas of glibc's take little of the bound.
            env={
                **os.environ,
                "TMPDIR": str(temporary),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "MALLOC_ARENA_MAX": "2",
            },
        )
        assert self._line() == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
        shutil.rmtree(self._home, ignore_errors=True)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder, which is gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self._home) as made:
            yield Path(made)

    def answer(self, target: str, make: Callable[[Path], object]) -> Answer:
        """How `target` fares with the folder that `make` fills."""
        with self.folder() as folder, self.folder() as scratch:
            make(folder)
            return self.read(target, folder, scratch)

    def read(self, target: str, folder: Path, scratch: Path) -> Answer:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([target, str(folder), str(scratch)]) + "\n")
        self._server.stdin.flush()
        return Answer(**json.loads(self._line()))

    def _line(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            raise AssertionError(f"the server that reads the files has ended with status {self._server.wait()}")
        return line.strip()

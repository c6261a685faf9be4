"""What a rank may read of a job: what lies in the operator's roots."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ladle_contracts import Reason
from ladle_contracts.roots import PathNotAllowed, Roots
from ladle_engine import EngineError
from ladle_engine.storage import boundary

T = TypeVar("T")


def confine_reading(roots: Sequence[str]) -> None:
    """From now on the engine opens what the job names, and all below, only inside these folders.

    It holds them open until the process ends, which serves one job.
    """
    boundary.install(InsideRoots(Roots(roots)))


class InsideRoots:
    """The engine's boundary, with its errors."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots

    def open(self, path: Path, flags: int) -> int:
        return _told(path, lambda: self._roots.open(path, flags))

    def status(self, path: Path) -> os.stat_result:
        return _told(path, lambda: self._roots.status(path))


def _told(path: Path, look: Callable[[], T]) -> T:
    try:
        return look()
    except PathNotAllowed as error:
        raise EngineError(
            Reason.PATH_NOT_ALLOWED,
            f"Every file of a job must be inside the allowed folders, but `{path}` is not: it is a link that "
            f"leads out, or is in a folder that is one. Copy what it leads to into an allowed folder.",
        ) from error

"""Trackers for whoever calls the engine, as in a notebook."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ladle_trackers.base import Run, Value
from ladle_trackers.guarded import Guarded


class Tracked:
    """Pass it as `progress=`, and tell it at the end where the result is."""

    def __init__(self, trackers: Sequence[Guarded]) -> None:
        self._trackers = trackers

    def __call__(self, event: Any) -> None:
        for tracker in self._trackers:
            tracker.event(event)

    def result(self, folder: str | os.PathLike[str]) -> None:
        """The folder that `average` has written: its report goes to the trackers."""
        for tracker in self._trackers:
            tracker.result(Path(folder))


@contextmanager
def tracked(
    *trackers: str,
    project: str = "ladle",
    run: str | None = None,
    folder: str | os.PathLike[str] = "ladle-trackers",
    settings: Mapping[str, Value] | None = None,
) -> Iterator[Tracked]:
    """Tells trackers (`tensorboard`, `mlflow`, `wandb`, `trackio`) of one call of `average`.

        with tracked("tensorboard") as tracking:
            average(checkpoints, validation, output="soup", progress=tracking)
            tracking.result("soup")

    `folder` is where those that write files write them. A tracker that fails becomes a Python warning, and nothing
    else.
    """
    made = Run(
        project=project,
        name=run or f"run-{secrets.token_hex(4)}",
        id=secrets.token_hex(8),
        folder=Path(folder).absolute(),
        settings=settings or {},
    )
    opened = [Guarded(name, made, lambda told: warnings.warn(told, stacklevel=2)) for name in trackers]
    ok = False
    try:
        yield Tracked(opened)
        ok = True
    finally:
        for tracker in opened:
            tracker.end(ok=ok)

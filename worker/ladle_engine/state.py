"""What survives a crash: finished candidates and evaluations, and the trained coefficients every few seconds."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ladle_engine.checkpoints.types import CheckpointSet


class ResumeState:
    """A folder of small files, each replaced atomically. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None, fingerprint: str, *, writes: bool = True, every_s: float = 2.0) -> None:
        self._folder = folder / fingerprint if folder else None
        self._writes = writes
        self._every_s = every_s
        self._last_save = time.monotonic()
        if self._folder and writes:
            self._folder.mkdir(parents=True, exist_ok=True)

    def load(self, key: str) -> dict[str, Any] | None:
        path = self._path(key)
        if path is None or not path.exists():
            return None
        loaded: dict[str, Any] = torch.load(path, weights_only=True)
        return loaded

    def save(self, key: str, value: Mapping[str, Any]) -> None:
        """Only rank 0 writes; every rank reads."""
        path = self._path(key)
        if path is None or not self._writes:
            return
        temporary = path.with_suffix(".tmp")
        # In memory first: on a full disk `torch.save` raises an error of its own that does not say so.
        buffer = io.BytesIO()
        torch.save(dict(value), buffer)
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._last_save = time.monotonic()

    def is_due(self) -> bool:
        """Whether `every_s` has passed since the last save."""
        return self._folder is not None and time.monotonic() - self._last_save >= self._every_s

    def _path(self, key: str) -> Path | None:
        return self._folder / f"{key}.pt" if self._folder else None


def fingerprint(checkpoints: CheckpointSet, settings: Mapping[str, Any]) -> str:
    """Names what a state belongs to, so that it is never resumed after the files or the settings changed."""
    files = [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        for checkpoint in checkpoints.checkpoints
        for path in checkpoint.files
    ]
    text = json.dumps([files, settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

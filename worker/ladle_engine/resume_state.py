"""What survives a crash: finished candidates and evaluations, and the trained coefficients every few seconds."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.collectives import Collectives, SingleProcess
from ladle_engine.errors import EngineError
from ladle_engine.storage.atomic_folder import naming_the_full_disk
from ladle_engine.versions import installed_version


class ResumeState:
    """A folder of small files of rank 0's, each replaced atomically. Without a folder nothing is kept."""

    def __init__(
        self,
        folder: Path | None,
        fingerprint: str,
        *,
        collectives: Collectives | None = None,
        every_s: float = 2.0,
    ) -> None:
        self._collectives = collectives or SingleProcess()
        # Others may see copies of the files, at another place or of another time, or have a folder of their own: they
        # would find another state than rank 0, or none, and train from another step.
        self._folder = folder / fingerprint if folder and self._collectives.rank == 0 else None
        self._every_s = every_s
        self._last_save = time.monotonic()
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)

    def load(self, key: str) -> dict[str, Any] | None:
        """Collective: what rank 0 has saved, on every rank."""
        path = self._path(key)
        found = path.read_bytes() if path is not None and path.exists() else b""
        content = self._collectives.broadcast(found)
        if not content:
            return None
        loaded: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
        return loaded

    def save(self, key: str, value: Mapping[str, Any]) -> None:
        """Nothing on other ranks than 0. Raises `OutputError` on a full disk; what was saved before stays."""
        path = self._path(key)
        if path is None:
            return
        temporary = path.with_suffix(".tmp")
        # In memory first: on a full disk `torch.save` raises an error of its own that does not say so.
        buffer = io.BytesIO()
        torch.save(dict(value), buffer)
        try:
            with naming_the_full_disk("state_dir", path.parent), temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._last_save = time.monotonic()

    def is_due(self) -> bool:
        """Whether `every_s` has passed since the last save; never on other ranks than 0."""
        return self._folder is not None and time.monotonic() - self._last_save >= self._every_s

    def _path(self, key: str) -> Path | None:
        return self._folder / f"{key}.pt" if self._folder else None


def fingerprint(checkpoints: CheckpointSet, data: Iterable[Path], settings: Mapping[str, Any]) -> str:
    """Names what a state belongs to, so that it is never resumed after the files or the settings changed.

    `data` are files, or folders of them. Rank 0's counts: others may see copies.
    """
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in all_files(checkpoints, data)]
    return digest([installed_version("ladle"), files, settings])


def same_everywhere(
    checkpoints: CheckpointSet, data: Iterable[Path], settings: Mapping[str, Any], collectives: Collectives
) -> None:
    """Collective. Raises `EngineError` where ranks were called with other arguments or see other files.

    Files may be copies, so the time of their last change does not count.
    """
    files = [(path.name, path.stat().st_size) for path in all_files(checkpoints, data)]
    own = torch.tensor([int(digest([checkpoints.names, files, settings])[:15], 16)])
    seen = collectives.all_gather(own, [1] * collectives.size).tolist()
    others = [rank for rank, number in enumerate(seen) if number != seen[0]]
    if others:
        raise EngineError(
            "mismatched-checkpoints",
            f"Every rank must see the same files and settings, but rank {others[0]} does not see those of rank 0: on "
            f"this rank `{checkpoints.folder}` holds {len(checkpoints.names)} checkpoints, in all {len(files)} files.",
        )


def all_files(checkpoints: CheckpointSet, data: Iterable[Path]) -> list[Path]:
    """What decides the result: weights, config and other side files, and data."""
    weights = [path for checkpoint in checkpoints.checkpoints for path in checkpoint.files]
    examples = [path for root in data for path in (sorted(root.rglob("*")) if root.is_dir() else [root])]
    return [*weights, *checkpoints.side_files, *(path for path in examples if path.is_file())]


def digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

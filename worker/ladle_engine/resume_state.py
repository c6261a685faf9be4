"""What survives a crash: finished candidates and evaluations, and the trained coefficients every few seconds."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.distributed.collectives import Collectives, SingleProcess
from ladle_engine.errors import EngineError
from ladle_engine.progress import ProgressCallback, Warned, ignore
from ladle_engine.storage.atomic_folder import STORAGE_FAULTS, make_folder, naming_disk_faults
from ladle_engine.storage.inputs import Inputs
from ladle_engine.storage.sealed_file import read_sealed, remove_whatever, write_sealed
from ladle_engine.versions import installed_version

SUFFIX = ".pt"

FORMAT = 4
"""Of everything that is saved. A state of another format begins anew."""


class ResumeState:
    """A folder of small files of rank 0's, each replaced atomically. Without a folder nothing is kept."""

    def __init__(
        self,
        folder: Path | None,
        key: str,
        *,
        collectives: Collectives | None = None,
        every_s: float = 2.0,
        on_event: ProgressCallback = ignore,
    ) -> None:
        """`key` names the job: a folder may hold the states of several."""
        self._collectives = collectives or SingleProcess()
        # Others may see copies of the files, at another place or of another time, or have a folder of their own: they
        # would find another state than rank 0, or none, and train from another step.
        self._folder = folder / key if folder and self._collectives.rank == 0 else None
        self._every_s = every_s
        self._on_event = on_event
        self._last_save = time.monotonic()
        if self._folder:
            if self._folder.is_file():
                self._discard(self._folder)
            make_folder(self._folder, "state_dir", may_exist=True)

    @property
    def folder(self) -> Path | None:
        """Rank 0's."""
        return self._folder

    def load(self, key: str) -> dict[str, Any] | None:
        """Collective: what rank 0 has saved, on every rank. What is damaged is discarded, with a warning."""
        content = self._collectives.broadcast(self._read(key))
        if not content:
            return None
        loaded: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
        return loaded

    def save(self, key: str, value: Mapping[str, Any]) -> None:
        """Nothing on other ranks than 0. Raises `OutputError` on a full disk; what was saved before stays."""
        if self._folder is None:
            return
        # In memory first: on a full disk `torch.save` raises an error of its own that does not say so.
        buffer = io.BytesIO()
        torch.save(dict(value), buffer)
        self.write(key + SUFFIX, buffer.getvalue())
        self._last_save = time.monotonic()

    def read(self, name: str) -> bytes | None:
        """Rank 0's: a file that was written here by a job of these settings. Anything else in its place is discarded,
        with a warning. None without one."""
        path = self._path(name)
        if path is None or not os.path.lexists(path):
            return None
        with naming_disk_faults("state_dir", path.parent):
            try:
                content = read_sealed(path, self._kind(name))
            except OSError as error:
                if error.errno in STORAGE_FAULTS:
                    raise
                content = None
        if content is None:
            self._discard(path)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Rank 0's. Raises `OutputError` or `LostFolder`."""
        path = self._path(name)
        if path is not None:
            with naming_disk_faults("state_dir", path.parent):
                write_sealed(path, content, self._kind(name))

    def forget(self, name: str) -> None:
        """Rank 0's: removes a file. A read-only disk keeps it."""
        path = self._path(name)
        if path is not None:
            with suppress(OSError):
                path.unlink()

    def is_due(self) -> bool:
        """Whether `every_s` has passed since the last save; never on other ranks than 0."""
        return self._folder is not None and time.monotonic() - self._last_save >= self._every_s

    def discard(self) -> None:
        """Forgets everything that was saved."""
        for path in self._folder.glob(f"*{SUFFIX}") if self._folder else ():
            with naming_disk_faults("state_dir", path.parent):
                remove_whatever(path)

    def _read(self, key: str) -> bytes:
        return self.read(key + SUFFIX) or b""

    def _discard(self, path: Path) -> None:
        told = f"The saved state `{path}` is damaged, or not of this job, and is not used. What it was for begins anew."
        self._on_event(Warned(message=told))
        with naming_disk_faults("state_dir", path.parent):
            remove_whatever(path)

    def _path(self, name: str) -> Path | None:
        return self._folder / name if self._folder else None

    def _kind(self, name: str) -> str:
        """A file that was copied from another job or another name is none of this one's."""
        assert self._folder is not None, "files have a folder"
        return f"ladle state {FORMAT} {self._folder.name} {name}"


def job_key(settings: Mapping[str, Any]) -> str:
    """Names what a state belongs to: a job of these settings. Whether its files are the same, `JobInputs` tells."""
    return digest([installed_version("ladle"), settings])


def same_everywhere(
    checkpoints: CheckpointSet, inputs: Inputs, settings: Mapping[str, Any], collectives: Collectives
) -> None:
    """Collective. Raises `EngineError` where ranks were called with other arguments or see other files.

    Files may be copies, so the time of their last change does not count.
    """
    files = [(path.name, size) for path, size in inputs.sizes.items()]
    own = torch.tensor([int(digest([checkpoints.names, files, settings])[:15], 16)])
    seen = collectives.all_gather(own, [1] * collectives.size).tolist()
    others = [rank for rank, number in enumerate(seen) if number != seen[0]]
    if others:
        raise EngineError(
            "mismatched-checkpoints",
            f"Every rank must see the same files, settings and data, but rank {others[0]} does not see those of rank "
            f"0: on this rank `{checkpoints.folder}` holds {len(checkpoints.names)} checkpoints, in all {len(files)} "
            f"files.",
        )


def digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""SHA-256 of what was written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ladle_engine.storage.input_file import COUNTS
from ladle_engine.storage.page_cache import leave_cache


def digests_of(paths: Sequence[Path], digest: Callable[[Path], str]) -> Iterator[tuple[Path, str]]:
    """Each path with its digest, in order; several files at once."""
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        yield from zip(paths, pool.map(digest, paths), strict=True)


def sha256_on_disk(path: Path) -> str:
    """Of what the disk has, not the page cache."""
    with path.open("rb") as file:
        leave_cache(file, 0, path.stat().st_size)
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        COUNTS.read(path, file.tell())
    return digest

"""Small files that say whether they are whole: each begins with the SHA-256 of the rest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ladle_engine.storage.atomic_folder import replace_file

DIGEST_BYTES = hashlib.sha256().digest_size


def write_sealed(path: Path, content: bytes) -> None:
    """The file has all of its content, or what it had before."""
    replace_file(path, hashlib.sha256(content).digest() + content)


def read_sealed(path: Path) -> bytes | None:
    """None for a file that is cut, or damaged in another way."""
    sealed = path.read_bytes()
    digest, content = sealed[:DIGEST_BYTES], sealed[DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None

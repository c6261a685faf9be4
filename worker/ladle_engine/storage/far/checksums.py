"""Checksums that stores tell of what they hold, so that a large file need not be read back."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ladle_engine.progress import pulse
from ladle_engine.storage.far.stores import PUT_BYTES

READ_BYTES = 16 << 20


def is_told_by(tag: str, path: Path) -> bool:
    """Whether a version is the MD5 of this file, as S3's ETag is of most objects, also of those sent in parts.

    It is not where a bucket encrypts with keys of its own, and with other stores: that says nothing about the content.
    """
    whole, _, num_parts = tag.partition("-")
    if len(whole) != 32:
        return False
    return tag == (_md5_of_parts(path) if num_parts else _md5(path))


def _md5(path: Path) -> str:
    return _digests(path, path.stat().st_size)[0].hex()


def _md5_of_parts(path: Path) -> str:
    digests = _digests(path, PUT_BYTES)
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


def _digests(path: Path, part_bytes: int) -> list[bytes]:
    """MD5 of each part."""
    found = []
    with path.open("rb") as file:
        for start in range(0, max(path.stat().st_size, 1), max(part_bytes, 1)):
            md5, left = hashlib.md5(usedforsecurity=False), part_bytes
            file.seek(start)
            while left and (block := file.read(min(READ_BYTES, left))):
                md5.update(block)
                left -= len(block)
                pulse()
            found.append(md5.digest())
    return found

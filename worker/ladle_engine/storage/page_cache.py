"""Hints about the page cache."""

from __future__ import annotations

import os
from typing import BinaryIO


def leave_cache(file: BinaryIO, start: int, length: int) -> None:
    """On Linux, bytes that are on the disk leave the page cache, and others set out for the disk; elsewhere nothing."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_DONTNEED)

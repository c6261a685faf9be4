"""Where a listing continues: the last job of the page before, by its creation time and id.

A cursor ends in a checksum, so that one that was mistyped or cut is refused and does not show some other page. It is no
secret and gives no rights.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Self

_CURSOR = re.compile(r"([0-9]{1,16})-([A-Za-z0-9][A-Za-z0-9_-]{0,63})-([0-9a-f]{8})")


@dataclass(frozen=True)
class Cursor:
    """A place between two jobs of a listing."""

    created_ms: str
    job_id: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for what is not a `next_cursor`."""
        found = _CURSOR.fullmatch(text)
        cursor = cls(found[1], found[2]) if found else None
        if cursor is None or str(cursor) != text:
            raise ValueError("must be the `next_cursor` of another page")
        return cursor

    def __str__(self) -> str:
        place = f"{self.created_ms}-{self.job_id}"
        return f"{place}-{zlib.crc32(place.encode()):08x}"

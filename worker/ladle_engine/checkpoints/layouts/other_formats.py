"""Folders in formats that Ladle does not read."""

from __future__ import annotations

from collections.abc import Sequence

from ladle_engine.checkpoints.layouts.base import Folder, Found
from ladle_engine.checkpoints.other_formats import BY_MARKER


def look(folder: Folder) -> Sequence[Found] | None:
    found = next((each for marker, each in BY_MARKER.items() if folder.has(marker)), None)
    return None if found is None else folder.passed_over(found.reason)

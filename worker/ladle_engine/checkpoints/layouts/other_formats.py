"""Folders in formats that Ladle does not read."""

from __future__ import annotations

from collections.abc import Sequence

from ladle_engine.checkpoints.layouts.base import Folder, Found

FORMATS = {
    "saved_model.pb": "in TensorFlow format, which Ladle does not read",
    "_CHECKPOINT_METADATA": "in Orbax format, which Ladle does not read",
}
"""What such a folder holds -> what it is."""


def look(folder: Folder) -> Sequence[Found] | None:
    reason = next((reason for marker, reason in FORMATS.items() if folder.has(marker)), None)
    return None if reason is None else folder.passed_over(reason)

"""What Ladle has written itself: a result is no checkpoint of a training."""

from __future__ import annotations

from collections.abc import Sequence

from ladle_engine.checkpoints.layouts.base import Folder, Found

A_RESULT = frozenset({"coefficients.json", "report.json"})
"""What Ladle writes beside a model."""


def look(folder: Folder) -> Sequence[Found] | None:
    return folder.passed_over("a result of Ladle") if folder.names >= A_RESULT else None

"""The pictures beside a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle_engine.pipeline.model_card import picture_file
from ladle_engine.progress import ProgressCallback, Warned
from ladle_report.model import Figure
from ladle_report.pictures import can_draw, card_figures, png

PANIC = "PanicException"
"""What resvg raises where its Rust code gives up; not an `Exception`."""


def write_pictures(folder: Path, report: Mapping[str, Any], on_event: ProgressCallback) -> Sequence[Figure]:
    """The figures that were drawn into files; none without the library that draws."""
    if not can_draw():
        return []
    try:
        # As it is read from its file.
        figures = card_figures(json.loads(json.dumps(report)))
        pictures = [png(figure.picture) for figure in figures]
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        # No reason to lose a model.
        told = f"{type(error).__name__}: {error}"[:200]
        on_event(Warned(message=f"The model card has no pictures, because they could not be drawn ({told})."))
        return []
    for figure, picture in zip(figures, pictures, strict=True):
        (folder / picture_file(figure)).write_bytes(picture)
    return figures

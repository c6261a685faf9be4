"""DeepSpeed: shards of the model and of the optimiser, in a folder of their own or in `global_stepN/`."""

from __future__ import annotations

from collections.abc import Sequence

from ladle_engine.checkpoints.layouts.base import Folder, Found

MARKERS = ("*_model_states.pt", "*/*_model_states.pt")


def look(folder: Folder) -> Sequence[Found] | None:
    if not any(map(folder.has, MARKERS)):
        return None
    return folder.passed_over("in DeepSpeed format: convert it with its zero_to_fp32.py")

"""PEFT: an adapter in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence

from ladle_engine.checkpoints.layouts.base import Folder, Found
from ladle_engine.checkpoints.layouts.usual_names import usual_weights


def look(folder: Folder) -> Sequence[Found] | None:
    if "adapter_config.json" not in folder.names or usual_weights(folder) is not None:
        return None
    return folder.passed_over("an adapter, which Ladle does not read")

"""A folder that is named as a checkpoint and holds one file of weights: `step1000-unsharded/model.pt`."""

from __future__ import annotations

from collections.abc import Sequence

from ladle_engine.checkpoints.layouts.base import Folder, Found
from ladle_engine.checkpoints.layouts.usual_names import named_as_folder
from ladle_engine.checkpoints.name_parts import names_one_checkpoint


def look(folder: Folder) -> Sequence[Found] | None:
    if len(folder.candidates) != 1 or not names_one_checkpoint(folder.path.name):
        return None
    return named_as_folder(folder, folder.candidates[0])

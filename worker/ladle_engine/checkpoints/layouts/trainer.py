"""transformers' Trainer: `checkpoint-N/` folders, beside them the model that it saved at the end."""

from __future__ import annotations

import re

from ladle_engine.checkpoints.files import problem_of
from ladle_engine.checkpoints.layouts.base import Folder
from ladle_engine.storage.boundary import status
from ladle_engine.storage.input_paths import read_json

STATE = "trainer_state.json"
MOST_STATE_BYTES = 64 << 20

CHECKPOINT = re.compile(r"checkpoint-[0-9]+")
"""`transformers.trainer_utils.PREFIX_CHECKPOINT_DIR` and the step."""


def holds_checkpoints(folder: Folder) -> bool:
    """Whether a folder that has weights itself is a run too: its `checkpoint-N/` count as well."""
    return any(CHECKPOINT.fullmatch(child) and folder.inner(child) for child in folder.children)


def step_of(folder: Folder) -> int | None:
    """What the Trainer says. A file that is broken or half-written says nothing: the name does then."""
    path = folder.path / STATE
    if STATE not in folder.names or problem_of(path, folder.root) is not None:
        return None
    try:
        if status(path).st_size > MOST_STATE_BYTES:
            return None
        step = read_json(path)["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if type(step) is int else None

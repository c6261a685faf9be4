"""PEFT: an adapter in a folder of its own, as `save_pretrained` and transformers' Trainer leave it."""

from __future__ import annotations

from collections.abc import Sequence

from ladle_engine.checkpoints.adapters.config import CONFIG_FILE
from ladle_engine.checkpoints.adapters.reader import FORMAT
from ladle_engine.checkpoints.files import Candidate, problem_of
from ladle_engine.checkpoints.layouts.base import Folder, Found
from ladle_engine.checkpoints.layouts.usual_names import usual_weights
from ladle_engine.checkpoints.types import Checkpoint

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
"""The preferred first."""


def look(folder: Folder) -> Sequence[Found] | None:
    if CONFIG_FILE not in folder.names or usual_weights(folder) is not None:
        return None
    return (
        [_found(folder)] if not folder.names.isdisjoint(WEIGHTS) else folder.passed_over("an adapter without weights")
    )


def _found(folder: Folder) -> Found:
    weights = next(name for name in WEIGHTS if name in folder.names)
    files = (folder.path / weights, folder.path / CONFIG_FILE)
    for path in files:
        problem = problem_of(path, folder.root)
        if isinstance(problem, str):
            return folder.passed_over(f"its `{path.name}` is {problem}")[0]
        if problem is not None:
            checkpoint = Checkpoint(name=folder.name, step=None, files=files, format=FORMAT)
            return Candidate(checkpoint=checkpoint, refusal=problem)
    return folder.checkpoint(files, FORMAT)

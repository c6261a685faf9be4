"""Weights in a folder of their own, under the names that transformers, accelerate, diffusers and open_clip use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ladle_engine.checkpoints.files import Candidate, PassedOver
from ladle_engine.checkpoints.layouts.base import Folder, Found, within
from ladle_engine.checkpoints.name_parts import SUFFIXES

WEIGHTS_IN_FOLDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What a checkpoint's own folder holds, the preferred first."""
USUAL_NAMES = frozenset({"model", "weights", "pytorch_model", "diffusion_pytorch_model", "open_clip_pytorch_model"})


def look(folder: Folder) -> Sequence[Found] | None:
    chosen = usual_weights(folder)
    return None if chosen is None else named_as_folder(folder, chosen)


def usual_weights(folder: Folder) -> Candidate | None:
    """The weights of a checkpoint's own folder under a usual name, the preferred first."""
    by_name = {each.checkpoint.name: each for each in folder.candidates}
    if known := next((name for name in WEIGHTS_IN_FOLDER if name in by_name), None):
        return by_name[known]
    usual = [each for name, each in by_name.items() if SUFFIXES.sub("", name).lower() in USUAL_NAMES]
    return usual[0] if len(usual) == 1 else None


def named_as_folder(folder: Folder, chosen: Candidate) -> list[Found]:
    """One of its files as the checkpoint that the folder is. Other models beside it are passed over."""
    others = [each.checkpoint.name for each in folder.candidates if each is not chosen]
    return [
        replace(chosen, checkpoint=replace(chosen.checkpoint, name=folder.name)),
        *(
            PassedOver(name=within(folder.name, other), reason=f"beside `{chosen.checkpoint.name}`, which is used")
            for other in others
            if other not in WEIGHTS_IN_FOLDER
        ),
    ]

"""A checkpoint that is made of several models, each in a file or folder of its own: diffusers' pipelines, GANs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ladle_engine.checkpoints.files import Candidate
from ladle_engine.checkpoints.layouts.base import MOST_CHILDREN, Folder, Found, within
from ladle_engine.checkpoints.layouts.usual_names import usual_weights
from ladle_engine.checkpoints.name_parts import SUFFIXES, names_a_time, words_of

PIPELINE = "model_index.json"
"""diffusers' list of a pipeline's models."""


def look(folder: Folder) -> Sequence[Found] | None:
    is_pipeline = PIPELINE in folder.names
    # A name says something of a folder that was found, not of the one that was given.
    may_be_one = bool(folder.name) and names_a_time(folder.path.name) and usual_weights(folder) is None
    if not is_pipeline and not may_be_one:
        return None
    components = components_of(folder)
    if folder.component in components:
        return [components[folder.component]]
    if not is_pipeline and len(components) < 2 and folder.component is None:
        # `checkpoint-500/unet/` alone is the checkpoint. One file in a folder is another layout's.
        return None if folder.candidates else list(components.values()) or None
    if not components:
        return None
    names = ", ".join(f"`{name}`" for name in components)
    what_to_do = f"it has no `{folder.component}`" if folder.component else "choose one with `component=`"
    return folder.passed_over(f"made of several models, {names}: {what_to_do}")


def components_of(folder: Folder) -> dict[str, Candidate]:
    """The models in a folder, by name.

    None of them is named as a checkpoint of some step, and not only numbers tell them apart: it would be a run then, or
    the parts of one model.
    """
    found = {}
    for child in map(folder.child, folder.children[:MOST_CHILDREN]):
        if not names_a_time(child.path.name) and not child.leads_out(".") and (weights := usual_weights(child)):
            found[child.path.name] = _called(weights, child.name)
    for file in folder.candidates:
        name = file.checkpoint.name
        found |= {} if names_a_time(name) else {SUFFIXES.sub("", name): _called(file, within(folder.name, name))}
    words = [frozenset(words_of(name)) - {""} for name in found]
    return found if all(words) and len(set(words)) == len(words) else {}


def unwanted(folder: Folder) -> frozenset[str]:
    """The folders of a pipeline that are not the component that is wanted."""
    if PIPELINE not in folder.names:
        return frozenset()
    return frozenset(components_of(folder)) - {folder.component}


def is_of(component: str, name: str) -> bool:
    """Whether a checkpoint's name is that of a component, such as `checkpoint-500/unet` or `epoch-3/generator.pt`."""
    return SUFFIXES.sub("", name.rpartition("/")[2]) == component


def _called(candidate: Candidate, name: str) -> Candidate:
    return replace(candidate, checkpoint=replace(candidate.checkpoint, name=name))

"""The checkpoints' base: the model that all were trained from. Where it is, and whether it fits them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ladle_engine.checkpoints import CheckpointSet, discover
from ladle_engine.checkpoints.differences import differences
from ladle_engine.checkpoints.files import Candidate, refuse_unreadable
from ladle_engine.checkpoints.folder_scan import find
from ladle_engine.checkpoints.left_out import some
from ladle_engine.checkpoints.readers import open_checkpoint
from ladle_engine.checkpoints.stand_ins import with_stand_ins
from ladle_engine.checkpoints.types import BASE_PREFIX, Checkpoint
from ladle_engine.errors import CheckpointError, MethodError
from ladle_engine.methods.context import Plan
from ladle_engine.methods.registry import METHODS
from ladle_engine.paths import PathLike
from ladle_engine.pipeline.base_model import weights_in
from ladle_engine.storage.input_paths import is_file, is_folder, is_there
from ladle_engine.subspace.geometry import Geometry

FIND = Callable[[Sequence[str]], CheckpointSet]
"""Finds the checkpoints, without those that these globs match as well."""


def with_ancestor(found: CheckpointSet, given: PathLike, find_without: FIND) -> CheckpointSet:
    """The set with its base, which is no longer one of the checkpoints where it was.

    `given` is a path, or the name of a checkpoint in the set's folder. Raises `CheckpointError` where there is none, or
    one of another architecture.
    """
    if found.adapters is not None:
        raise CheckpointError(
            "mismatched-checkpoints",
            f"`base=` must be absent for adapters, which are averaged as what they add to their base model, but is "
            f"`{given}`. `base_model=` says where that one is.",
        )
    base = find_base(found.folder, given)
    same = [each.name for each in found.checkpoints if set(each.files) & set(base.files)]
    if same:
        return joined(find_without([glob.escape(name) for name in same]), replace(base, name=same[0]))
    return joined(found, base)


def find_base(folder: Path, given: PathLike) -> Checkpoint:
    """What a name in the folder, or a path, stands for. It is called by that name, or `base:` and the path's last part.

    Raises `CheckpointError` (no-checkpoints) for what is neither.
    """
    given = Path(given)
    is_inside = not given.is_absolute() and is_there(folder / given)
    path = folder / given if is_inside else given
    name = os.fspath(given) if is_inside else f"{BASE_PREFIX}{path.name}"
    if is_folder(path):
        return replace(discover(path, names=[weights_in(path, "base")]).reference, name=name)
    if is_file(path):
        return replace(_of_file(path), name=name)
    raise CheckpointError(
        "no-checkpoints",
        f"`base=` must be the path of a model, or the name of a checkpoint in `{folder}`, but `{given}` is neither.",
    )


def _of_file(path: Path) -> Checkpoint:
    """A file of weights. The folder that it lies in is not looked at, which may be outside of what the job may read."""
    found = find(path.name, path.parent)
    if not isinstance(found, Candidate):
        why = f": it is {found.reason}" if found is not None else ""
        raise CheckpointError("no-checkpoints", f"`base=` must be a file of weights, but `{path}` is none{why}.")
    if found.refusal is not None:
        raise found.refusal
    refuse_unreadable(path)
    return found.checkpoint


def joined(found: CheckpointSet, base: Checkpoint) -> CheckpointSet:
    """Raises `CheckpointError` (mismatched-checkpoints) where the base lacks tensors, or has them in another shape.

    It may have more: a head that fine-tuning took away.
    """
    rows = with_stand_ins(replace(found, checkpoints=(base, *found.checkpoints)))
    base, *own = rows.checkpoints
    _refuse_unlike(found, base)
    return replace(found, checkpoints=tuple(own), dropped=rows.dropped, base=base)


def _refuse_unlike(found: CheckpointSet, base: Checkpoint) -> None:
    with open_checkpoint(replace(base, like=found.tensors)) as reader:
        tensors = reader.tensors()
        unlike = differences(found.tensors, tensors, {*found.taken, *found.dropped}.__contains__)
    rule = f"`base=` must be of the checkpoints' architecture, but `{base.name}`"
    hint = "`skip_tensors=` leaves tensors out of the average; then the base need not have them."
    if unlike.missing:
        count = f"{len(unlike.missing)} of the {len(found.tensors)} tensors"
        raise CheckpointError(
            "mismatched-checkpoints",
            f"{rule} lacks {count} of `{found.reference.name}`: {some(unlike.missing)}. {hint}",
        )
    for name in (*unlike.reshaped, *unlike.other_kind):
        its, theirs = (f"{each.kind} of shape {each.shape}" for each in (tensors[name], found.tensors[name]))
        raise CheckpointError(
            "mismatched-checkpoints", f"{rule} has `{name}` as {its}, and `{found.reference.name}` as {theirs}. {hint}"
        )


def refuse_base_as_checkpoint(checkpoints: CheckpointSet, geometry: Geometry) -> None:
    """Raises `CheckpointError` (identical-checkpoints) where the base holds the weights of one of the checkpoints."""
    if checkpoints.base is None:
        return
    distances_K = geometry.distances_to_base_K()
    nearest = int(distances_K.argmin())
    if not distances_K[nearest]:
        raise base_is(checkpoints.base.name, checkpoints.names[nearest])


def base_is(base: str, checkpoint: str) -> CheckpointError:
    """Two names of the same weights."""
    return CheckpointError(
        "identical-checkpoints",
        f"`base=` must be another model than the checkpoints, but `{base}` holds the weights of `{checkpoint}`. Leave "
        f"that one out with `exclude=`, or name it as the base.",
    )


def refuse_unused(plan: Plan, given: object, *, is_curve: bool) -> None:
    """Raises `MethodError` (invalid-method-options) where a method needs a base that is not given, or none needs it."""
    if plan.uses_base and given is None:
        needing = [name for name in plan.with_starts if METHODS[name].uses_base(plan.options[name])]
        raise MethodError(
            "invalid-method-options",
            f"`base=` must be the model that the checkpoints were trained from for "
            f"{', '.join(f'`{name}`' for name in needing)}, but is absent.",
        )
    if given is not None and not plan.uses_base:
        methods = ", ".join(f"`{name}`" for name in plan.methods if name != "best") or "`best`"
        named = "a curve" if is_curve else methods
        raise MethodError(
            "invalid-method-options", f"`base=` must be absent for {named}, which has no use for it, but is `{given}`."
        )

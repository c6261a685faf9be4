"""What lies in a folder of checkpoints: those that can be used, and what is passed over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ladle_engine.checkpoints.files import (
    BY_ITS_NAME,
    FIX_OR_EXCLUDE,
    Candidate,
    PassedOver,
    files_in,
    is_unfinished,
    leading_out,
    leads_out,
    problem_of,
    seems_folder,
    unreadable,
    why_missing,
)
from ladle_engine.checkpoints.layouts import adapters
from ladle_engine.checkpoints.layouts.base import Folder, Found
from ladle_engine.checkpoints.layouts.registry import as_one_checkpoint
from ladle_engine.checkpoints.layouts.usual_names import WEIGHTS_IN_FOLDER
from ladle_engine.checkpoints.name_parts import names_a_time
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.errors import CheckpointError
from ladle_engine.storage.boundary import status
from ladle_engine.storage.input_paths import entries_of, read_json

LEFT_BY_TRAINERS = frozenset({"trainer_state.json", "optimizer.pt", "optimizer.bin", "training_args.bin"})
FILE_TYPE = re.compile(r"\.[A-Za-z]\w*$")
MOST_STATE_BYTES = 64 << 20


def scan(folder: Path) -> tuple[list[Candidate], list[PassedOver]]:
    """Looks at the folder's entries and into its sub-folders, not deeper.

    Raises `CheckpointError` (unreadable-input) where the folder cannot be listed.
    """
    try:
        entries = _visible(folder)
    except OSError as error:
        raise unreadable(folder, error) from error
    found = [*files_in(entries, folder), *adapters.at_root(folder)]
    for entry in entries:
        if not FILE_TYPE.search(entry.name) or seems_folder(entry):
            found += _look_at_folder(entry, folder)
    found = [_printable(each) for each in found]
    candidates = [each for each in found if isinstance(each, Candidate)]
    return candidates, [each for each in found if isinstance(each, PassedOver)]


def _visible(folder: Path) -> list[Path]:
    return [folder / entry.name for entry in entries_of(folder) if not entry.name.startswith(".")]


def _printable(found: Candidate | PassedOver) -> Candidate | PassedOver:
    """Progress, reports and coefficients are UTF-8, so a checkpoint's name must be."""
    name = found.checkpoint.name if isinstance(found, Candidate) else found.name
    try:
        name.encode()
    except UnicodeEncodeError:
        return PassedOver(name=name.encode(errors="backslashreplace").decode(), reason="a name that is not UTF-8")
    return found


def _look_at_folder(path: Path, root: Path) -> Sequence[Found]:
    """A sub-folder as one checkpoint. Nothing for a folder that has nothing to do with checkpoints."""
    name = path.name
    if leads_out(path, root):
        return [_unusable(name, leading_out(path), "a link that leads out")]
    folder = Folder(path=path, name=name, root=root)
    try:
        if is_unfinished(name):
            found = folder.files or names_a_time(name)
            return [PassedOver(name=name, reason=BY_ITS_NAME)] if found else []
        as_one = as_one_checkpoint(folder)
    except NotADirectoryError:
        return []
    except OSError as error:
        if (reason := why_missing(path, error)) is not None:
            return [PassedOver(name=name, reason=reason)]
        return [_unusable(name, unreadable(path, error, FIX_OR_EXCLUDE), "unreadable")]
    if as_one is None:
        reason = _why_none(folder)
        return [PassedOver(name=name, reason=reason)] if reason else []
    return [_with_step(each, path, root) for each in as_one]


def _with_step(found: Found, path: Path, root: Path) -> Found:
    if isinstance(found, PassedOver) or found.checkpoint.step is not None:
        return found
    return replace(found, checkpoint=replace(found.checkpoint, step=_trainer_step(path, root)))


def _unusable(name: str, refusal: CheckpointError, reason: str) -> Candidate | PassedOver:
    """A folder that cannot be looked into: refused when it would be used, if it is a checkpoint by its name."""
    if not names_a_time(name):
        return PassedOver(name=name, reason=reason)
    return Candidate(checkpoint=Checkpoint(name=name, step=None, files=(), format="safetensors"), refusal=refusal)


def _why_none(folder: Folder) -> str | None:
    """Why a folder is no checkpoint; None where nobody would take it for one."""
    if len(folder.candidates) > 1:
        return f"holds {len(folder.candidates)} checkpoints of its own: give it as `ckpt_dir=` to average them"
    for each in folder.files:
        if isinstance(each, PassedOver):
            return f"its `{each.name}` is no use: {each.reason}"
        return f"holds only `{each.checkpoint.name}`, which may be another model"
    if any(not folder.inner(child).isdisjoint(WEIGHTS_IN_FOLDER) for child in folder.children):
        return "holds folders with checkpoints: give it as `ckpt_dir=` to average them"
    half_written = not folder.names.isdisjoint(LEFT_BY_TRAINERS)
    return "holds no weights" if half_written or names_a_time(folder.path.name) else None


def _trainer_step(folder: Path, root: Path) -> int | None:
    """What Hugging Face's Trainer says. A file that is broken or half-written says nothing: the name does then."""
    path = folder / "trainer_state.json"
    if problem_of(path, root) is not None:
        return None
    try:
        if status(path).st_size > MOST_STATE_BYTES:
            return None
        step = read_json(path)["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if type(step) is int else None

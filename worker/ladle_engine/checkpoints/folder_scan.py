"""What lies in a folder of checkpoints: those that can be used, and what is passed over."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from contextlib import suppress
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
    seems_file,
    seems_folder,
    unreadable,
    why_missing,
)
from ladle_engine.checkpoints.name_parts import SUFFIXES, names_a_time, names_one_checkpoint
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.errors import CheckpointError
from ladle_engine.storage.boundary import status
from ladle_engine.storage.input_paths import entries_of, read_json

WEIGHTS_IN_FOLDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What a checkpoint's own folder holds, the preferred first."""
OTHER_FOLDERS = {
    "adapter_config.json": "an adapter, which Ladle does not read",
    ".metadata": "in torch.distributed.checkpoint format, which Ladle does not read",
    "*/.metadata": "in torch.distributed.checkpoint format, which Ladle does not read",
    "saved_model.pb": "in TensorFlow format, which Ladle does not read",
    "_CHECKPOINT_METADATA": "in Orbax format, which Ladle does not read",
    "*_model_states.pt": "in DeepSpeed format: convert it with its zero_to_fp32.py",
    "global_step*/*_model_states.pt": "in DeepSpeed format: convert it with its zero_to_fp32.py",
}
"""What a folder in a format that Ladle does not read holds."""
A_RESULT = frozenset({"coefficients.json", "report.json"})
"""What Ladle writes beside a model."""
LEFT_BY_TRAINERS = frozenset({"trainer_state.json", "optimizer.pt", "optimizer.bin", "training_args.bin"})
USUAL_NAMES = frozenset({"model", "weights", "pytorch_model", "diffusion_pytorch_model", "open_clip_pytorch_model"})
FILE_TYPE = re.compile(r"\.[A-Za-z]\w*$")
MOST_ENTRIES = 10_000
"""Of a sub-folder: what holds more is no checkpoint."""
MOST_CHILDREN = 50
MOST_STATE_BYTES = 64 << 20


def scan(folder: Path) -> tuple[list[Candidate], list[PassedOver]]:
    """Looks at the folder's entries and into its sub-folders, not deeper.

    Raises `CheckpointError` (unreadable-input) where the folder cannot be listed.
    """
    try:
        entries = _visible(folder, most=None)
    except OSError as error:
        raise unreadable(folder, error) from error
    found = list(files_in(entries, folder))
    for entry in entries:
        if not FILE_TYPE.search(entry.name) or seems_folder(entry):
            found += _look_at_folder(entry, folder)
    found = [_printable(each) for each in found]
    candidates = [each for each in found if isinstance(each, Candidate)]
    return candidates, [each for each in found if isinstance(each, PassedOver)]


def _visible(folder: Path, most: int | None) -> list[Path]:
    return [folder / entry.name for entry in entries_of(folder, most) if not entry.name.startswith(".")]


def _printable(found: Candidate | PassedOver) -> Candidate | PassedOver:
    """Progress, reports and coefficients are UTF-8, so a checkpoint's name must be."""
    name = found.checkpoint.name if isinstance(found, Candidate) else found.name
    try:
        name.encode()
    except UnicodeEncodeError:
        return PassedOver(name=name.encode(errors="backslashreplace").decode(), reason="a name that is not UTF-8")
    return found


def _look_at_folder(path: Path, root: Path) -> list[Candidate | PassedOver]:
    """A sub-folder as one checkpoint. Nothing for a folder that has nothing to do with checkpoints."""
    name = path.name
    if leads_out(path, root):
        return [_unusable(name, leading_out(path), "a link that leads out")]
    try:
        entries = _visible(path, most=MOST_ENTRIES)
    except NotADirectoryError:
        return []
    except OSError as error:
        if (reason := why_missing(path, error)) is not None:
            return [PassedOver(name=name, reason=reason)]
        return [_unusable(name, unreadable(path, error, FIX_OR_EXCLUDE), "unreadable")]
    found = list(files_in(entries, root))
    if is_unfinished(name):
        return [PassedOver(name=name, reason=BY_ITS_NAME)] if found or names_a_time(name) else []
    if {entry.name for entry in entries} >= A_RESULT:
        return [PassedOver(name=name, reason="a result of Ladle")]
    candidates = [each for each in found if isinstance(each, Candidate)]
    if (chosen := _usual(candidates)) is None and (reason := _other_format(path)) is not None:
        return [PassedOver(name=name, reason=reason)]
    # One file with a name of its own is the checkpoint if the folder is named as one.
    chosen = chosen or (candidates[0] if len(candidates) == 1 and names_one_checkpoint(name) else None)
    if chosen is None:
        reason = _why_none(path, entries, found, root)
        return [PassedOver(name=name, reason=reason)] if reason else []
    checkpoint = replace(chosen.checkpoint, name=name, step=_trainer_step(path, root))
    others = [each.checkpoint.name for each in candidates if each is not chosen]
    return [
        replace(chosen, checkpoint=checkpoint),
        *(
            PassedOver(name=f"{name}/{other}", reason=f"beside `{chosen.checkpoint.name}`, which is used")
            for other in others
            if other not in WEIGHTS_IN_FOLDER
        ),
    ]


def _unusable(name: str, refusal: CheckpointError, reason: str) -> Candidate | PassedOver:
    """A folder that cannot be looked into: refused when it would be used, if it is a checkpoint by its name."""
    if not names_a_time(name):
        return PassedOver(name=name, reason=reason)
    return Candidate(checkpoint=Checkpoint(name=name, step=None, files=(), format="safetensors"), refusal=refusal)


def _usual(candidates: Sequence[Candidate]) -> Candidate | None:
    """The weights of a checkpoint's own folder under a usual name, the preferred first."""
    by_name = {each.checkpoint.name: each for each in candidates}
    if known := next((name for name in WEIGHTS_IN_FOLDER if name in by_name), None):
        return by_name[known]
    usual = [each for name, each in by_name.items() if SUFFIXES.sub("", name).lower() in USUAL_NAMES]
    return usual[0] if len(usual) == 1 else None


def _other_format(folder: Path) -> str | None:
    names = _two_levels(folder)
    return next(
        (reason for marker, reason in OTHER_FOLDERS.items() if any(_matches(each, marker) for each in names)), None
    )


def _two_levels(folder: Path) -> list[str]:
    """What is in a folder and in its folders, hidden or not, as paths relative to it."""
    entries = entries_of(folder, MOST_ENTRIES)
    names = [each.name for each in entries]
    for inner in [each.name for each in entries if each.is_folder][:MOST_CHILDREN]:
        with suppress(OSError):
            names += [f"{inner}/{each.name}" for each in entries_of(folder / inner, MOST_ENTRIES)]
    return names


def _matches(path: str, marker: str) -> bool:
    return path.count("/") == marker.count("/") and fnmatch.fnmatchcase(path, marker)


def _why_none(path: Path, entries: Sequence[Path], found: Sequence[Candidate | PassedOver], root: Path) -> str | None:
    """Why a folder is no checkpoint; None where nobody would take it for one."""
    candidates = [each for each in found if isinstance(each, Candidate)]
    if len(candidates) > 1:
        return f"holds {len(candidates)} checkpoints of its own: give it as `ckpt_dir=` to average them"
    for each in found:
        if isinstance(each, PassedOver):
            return f"its `{each.name}` is no use: {each.reason}"
        return f"holds only `{each.checkpoint.name}`, which may be another model"
    if any(_holds_weights(child) for child in entries[:MOST_CHILDREN] if not leads_out(child, root)):
        return "holds folders with checkpoints: give it as `ckpt_dir=` to average them"
    half_written = any(seems_file(path / name) for name in LEFT_BY_TRAINERS)
    return "holds no weights" if half_written or names_a_time(path.name) else None


def _holds_weights(folder: Path) -> bool:
    return any(seems_file(folder / name) for name in WEIGHTS_IN_FOLDER)


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

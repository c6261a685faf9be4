"""What lies in a folder of checkpoints: those that can be used, and what is passed over."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ladle_engine.checkpoints.files import (
    BY_ITS_NAME,
    Candidate,
    PassedOver,
    files_in,
    is_folder,
    is_unfinished,
    leading_out,
    leads_out,
    problem_of,
    unreadable,
    why_missing,
)
from ladle_engine.checkpoints.name_parts import LAST_WORDS, OWN_WORD, SUFFIXES, names_a_time, words_of
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.errors import CheckpointError

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
    "saved_model.pb": "in TensorFlow format, which Ladle does not read",
    "_CHECKPOINT_METADATA": "in Orbax format, which Ladle does not read",
    "*_model_states.pt": "in DeepSpeed format: convert it with its zero_to_fp32.py",
    "global_step*/*_model_states.pt": "in DeepSpeed format: convert it with its zero_to_fp32.py",
}
"""What a folder in a format that Ladle does not read holds."""
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
        if not FILE_TYPE.search(entry.name) or is_folder(entry):
            found += _look_at_folder(entry, folder)
    found = [_printable(each) for each in found]
    candidates = [each for each in found if isinstance(each, Candidate)]
    return candidates, [each for each in found if isinstance(each, PassedOver)]


def _visible(folder: Path, most: int | None) -> list[Path]:
    return sorted(entry for entry in islice(folder.iterdir(), most) if not entry.name.startswith("."))


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
    try:
        entries = [] if leads_out(path, root) else _visible(path, most=MOST_ENTRIES)
    except NotADirectoryError:
        return []
    except OSError as error:
        reason = why_missing(path, error)
        return _unusable(name, unreadable(path, error) if reason is None else reason)
    if leads_out(path, root):
        return _unusable(name, leading_out(path))
    found = list(files_in(entries, root))
    candidates = [each for each in found if isinstance(each, Candidate)]
    if is_unfinished(name):
        return [PassedOver(name=name, reason=BY_ITS_NAME)] if found or names_a_time(name) else []
    if (chosen := _choose(name, candidates)) is None:
        reason = _why_none(path, found, root)
        return [PassedOver(name=name, reason=reason)] if reason else []
    checkpoint = replace(chosen.checkpoint, name=name, step=_trainer_step(path, root))
    used = chosen.checkpoint.name
    return [
        Candidate(checkpoint=checkpoint, refusal=chosen.refusal),
        *(
            PassedOver(name=f"{name}/{each.checkpoint.name}", reason=f"beside `{used}`, which is used")
            for each in candidates
            if each is not chosen and each.checkpoint.name not in WEIGHTS_IN_FOLDER
        ),
    ]


def _unusable(name: str, why: CheckpointError | str) -> list[Candidate | PassedOver]:
    """A folder that cannot be looked into: refused when it would be used, if it is a checkpoint by its name."""
    if isinstance(why, CheckpointError) and names_a_time(name):
        checkpoint = Checkpoint(name=name, step=None, files=(), format="safetensors")
        return [Candidate(checkpoint=checkpoint, refusal=why)]
    reason = (
        why if isinstance(why, str) else "a link that leads out" if why.code == "path-not-allowed" else "unreadable"
    )
    return [PassedOver(name=name, reason=reason)]


def _choose(folder: str, candidates: Sequence[Candidate]) -> Candidate | None:
    """The weights of a checkpoint's own folder: under a usual name, or the only ones in a folder named as one."""
    by_name = {each.checkpoint.name: each for each in candidates}
    if known := next((name for name in WEIGHTS_IN_FOLDER if name in by_name), None):
        return by_name[known]
    usual = [each for name, each in by_name.items() if SUFFIXES.sub("", name).lower() in USUAL_NAMES]
    if len(usual) == 1:
        return usual[0]
    as_checkpoint = names_a_time(folder) or any(
        OWN_WORD.fullmatch(word) or word in LAST_WORDS for word in words_of(folder)
    )
    return candidates[0] if len(candidates) == 1 and as_checkpoint else None


def _why_none(path: Path, found: Sequence[Candidate | PassedOver], root: Path) -> str | None:
    """Why a folder is no checkpoint; None where nobody would take it for one."""
    for marker, reason in OTHER_FOLDERS.items():
        if any(path.glob(marker)):
            return reason
    candidates = [each for each in found if isinstance(each, Candidate)]
    if len(candidates) > 1:
        return f"holds {len(candidates)} checkpoints of its own: give it as `ckpt_dir` to average them"
    for each in found:
        if isinstance(each, PassedOver):
            return f"its `{each.name}` is no use: {each.reason}"
        return f"holds only `{each.checkpoint.name}`, which may be another model"
    if any(_holds_weights(child) for child in islice(path.iterdir(), MOST_CHILDREN) if not leads_out(child, root)):
        return "holds folders with checkpoints: give it as `ckpt_dir` to average them"
    half_written = any((path / name).is_file() for name in LEFT_BY_TRAINERS)
    return "holds no weights" if half_written or names_a_time(path.name) else None


def _holds_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in WEIGHTS_IN_FOLDER)


def _trainer_step(folder: Path, root: Path) -> int | None:
    """What Hugging Face's Trainer says. A file that is broken or half-written says nothing: the name does then."""
    path = folder / "trainer_state.json"
    if problem_of(path, root) is not None or path.stat().st_size > MOST_STATE_BYTES:
        return None
    try:
        step = json.loads(path.read_text())["global_step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int else None

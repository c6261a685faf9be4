"""Finds the checkpoints in a folder and puts them in order of step."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.readers import open_checkpoint, shards_of
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet
from ladle_engine.errors import CheckpointError

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
WEIGHTS_IN_FOLDER = (
    ("model.safetensors", "safetensors"),
    ("model.safetensors.index.json", "safetensors"),
    ("pytorch_model.bin", "pickle"),
    ("pytorch_model.bin.index.json", "pickle"),
)
"""What a checkpoint's own folder holds, the preferred first."""

NOT_WEIGHTS = re.compile(r"^(optim|scheduler|lr_scheduler|scaler|rng_state|training_args|random_states)", re.IGNORECASE)
"""Files that trainers leave beside the weights."""

STEP_PATTERNS = (
    r"step[=_-]?(\d+)",
    r"(?:epoch|iteration|iter|checkpoint|ckpt)[=_-]?(\d+)",
    r"(?<!\d)(?<!\d\.)(\d+)(?!\d)(?!\.\d)",
)
"""Where a step stands in a name, the most telling place first; the last is any whole number, but no part of a metric
such as 0.31."""

SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
NOT_SIDE_FILES = ("*.index.json", "trainer_state.json", "coefficients.json", "report.json")
MAX_SIDE_FILE_BYTES = 64 << 20


def discover(
    folder: Path,
    *,
    pattern: str | None = None,
    last: int | None = None,
    steps: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> CheckpointSet:
    """Reads names and headers only. Raises `CheckpointError`: none, too few, corrupt or unsafe.

    Args:
        pattern: a glob on the checkpoint's name, which is its path relative to the folder.
        last: only the last n by step.
        steps: only these steps; a missing one is an error.
        names: these checkpoints, in this order; a missing one is an error.
    """
    if not folder.is_dir():
        raise CheckpointError("no-checkpoints", f"`ckpt_dir` must be a folder, but `{folder}` is not.")
    found = sorted(_find(folder), key=_order)
    if not found:
        raise CheckpointError(
            "no-checkpoints",
            f"`ckpt_dir` must hold checkpoints (*.safetensors, {', '.join('*' + s for s in PICKLE_SUFFIXES)}, or "
            f"sub-folders such as checkpoint-100/), but `{folder}` holds none.",
        )
    chosen = _named(found, folder, names) if names is not None else _filter(found, folder, pattern, last, steps)
    if len(chosen) < 2:
        raise CheckpointError(
            "too-few-checkpoints",
            f"`ckpt_dir` must hold at least 2 checkpoints to average, but `{folder}` holds {len(chosen)}"
            f"{'' if len(chosen) == len(found) else f' of {len(found)} that match `checkpoints`'}: {_names(chosen)}.",
        )
    reference = chosen[-1]
    home = reference.files[0].parent
    with open_checkpoint(reference) as reader:
        tensors = dict(reader.tensors())
    return CheckpointSet(
        folder=folder,
        checkpoints=tuple(chosen),
        tensors=tensors,
        config=_read_config(folder, home),
        side_files=tuple(_side_files(folder, home)),
    )


def _find(folder: Path) -> Iterable[Checkpoint]:
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        _refuse_escape(entry, folder)
        if entry.is_dir():
            weights = _weights_in(entry)
            if weights is not None:
                yield _checkpoint(entry.name, *weights, step=_trainer_step(entry))
        elif entry.suffix == ".safetensors":
            yield _checkpoint(entry.name, (entry,), "safetensors")
        elif entry.suffix in PICKLE_SUFFIXES and not NOT_WEIGHTS.match(entry.name):
            yield _checkpoint(entry.name, (entry,), "pickle")


def _weights_in(folder: Path) -> tuple[tuple[Path, ...], str] | None:
    """The weight files of a checkpoint that has a folder of its own."""
    for name, kind in WEIGHTS_IN_FOLDER:
        path = folder / name
        if path.is_file():
            files = shards_of(path) if name.endswith(".json") else (path,)
            for file in files:
                _refuse_escape(file, folder.parent)
            return files, kind
    return None


def _refuse_escape(path: Path, folder: Path) -> None:
    """A link must not lead out of the folder that the operator allowed."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(
            "path-not-allowed", f"Everything in `ckpt_dir` must lie inside it, but `{path}` is a link that leads out."
        )


def _checkpoint(name: str, files: tuple[Path, ...], kind: str, step: int | None = None) -> Checkpoint:
    return Checkpoint(name=name, step=_step_in(name) if step is None else step, files=files, format=kind)


def _step_in(name: str) -> int | None:
    """`epoch=3-step=1200.ckpt` is 1200; `checkpoint-500` is 500; `epoch=07-val_loss=0.31.pt` is 7."""
    stem = re.sub(r"\.(safetensors|pt|pth|bin|ckpt)$", "", name)
    for pattern in STEP_PATTERNS:
        if numbers := re.findall(pattern, stem, re.IGNORECASE):
            return int(numbers[-1])
    return None


def _trainer_step(folder: Path) -> int | None:
    state = _read_json(folder / "trainer_state.json")
    step = state.get("global_step") if state else None
    return step if isinstance(step, int) else None


def _order(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """By step; those without one last, by natural name."""
    natural = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", checkpoint.name)]
    return (checkpoint.step is None, checkpoint.step or 0, natural)


def _filter(
    found: list[Checkpoint], folder: Path, pattern: str | None, last: int | None, steps: Sequence[int] | None
) -> list[Checkpoint]:
    chosen = found
    if pattern is not None and not isinstance(pattern, str):
        raise ValueError(f"`pattern` must be a text, but is {pattern!r}.")
    if steps is not None and (isinstance(steps, str) or not all(isinstance(step, int) for step in steps)):
        raise ValueError(f"`steps` must be whole numbers, but are {steps!r}.")
    if last is not None and (not isinstance(last, int) or last < 1):
        raise ValueError(f"`last` must be at least 1, but is {last!r}.")
    if pattern is not None:
        chosen = [checkpoint for checkpoint in chosen if fnmatch.fnmatchcase(checkpoint.name, pattern)]
        if not chosen:
            raise CheckpointError(
                "no-checkpoints",
                f"`pattern` must match a checkpoint in `{folder}`, but `{pattern}` matches none of: {_names(found)}.",
            )
    if steps is not None:
        present = {checkpoint.step for checkpoint in chosen}
        if missing := [step for step in steps if step not in present]:
            raise CheckpointError(
                "no-checkpoints",
                f"`steps` must be steps of checkpoints in `{folder}`, but {missing[0]} is none. There are: "
                f"{', '.join(str(step) for step in sorted(step for step in present if step is not None))}.",
            )
        chosen = [checkpoint for checkpoint in chosen if checkpoint.step in steps]
    return chosen if last is None else chosen[-last:]


def _named(found: list[Checkpoint], folder: Path, names: Sequence[str]) -> list[Checkpoint]:
    by_name = {checkpoint.name: checkpoint for checkpoint in found}
    if missing := [name for name in names if name not in by_name]:
        raise CheckpointError(
            "no-checkpoints", f"`ckpt_dir` must hold the checkpoint `{missing[0]}`, but `{folder}` does not."
        )
    return [by_name[name] for name in names]


def _names(checkpoints: Sequence[Checkpoint]) -> str:
    names = [f"`{checkpoint.name}`" for checkpoint in checkpoints[:10]]
    return ", ".join(names) + (f" and {len(checkpoints) - 10} more" if len(checkpoints) > 10 else "") or "none"


def _read_config(*folders: Path) -> Mapping[str, Any] | None:
    return next((config for folder in folders if (config := _read_json(folder / "config.json")) is not None), None)


def _read_json(path: Path) -> dict[str, Any] | None:
    """None when there is no such file. Raises `CheckpointError` for one that is not a JSON object."""
    if not path.is_file():
        return None
    try:
        parsed = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            "corrupt-checkpoint", f"`{path}` must be a JSON file, but does not parse ({error})."
        ) from error
    if not isinstance(parsed, dict):
        raise CheckpointError(
            "corrupt-checkpoint", f"`{path}` must be a JSON object, but is a {type(parsed).__name__}."
        )
    return parsed


def _side_files(*folders: Path) -> Iterable[Path]:
    """Config, tokenizer and the like, by name once, the checkpoint folder's own first. Never a pickle."""
    seen: set[str] = set()
    for folder in dict.fromkeys(folders):
        for pattern in SIDE_FILES:
            for path in sorted(folder.glob(pattern)):
                skipped = any(fnmatch.fnmatchcase(path.name, other) for other in NOT_SIDE_FILES)
                plain = path.is_file() and path.resolve().is_relative_to(folders[0].resolve())
                if not skipped and plain and path.name not in seen and path.stat().st_size <= MAX_SIDE_FILE_BYTES:
                    seen.add(path.name)
                    yield path

"""Files beside the weights: what the model needs to be used again, without what describes the model it was."""

from __future__ import annotations

import fnmatch
import hashlib
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.files import is_unfinished, leading_out, leads_out, unreadable, why_missing
from ladle_engine.checkpoints.name_parts import SUFFIXES
from ladle_engine.errors import CheckpointError
from ladle_engine.storage.boundary import status
from ladle_engine.storage.input_paths import (
    beginning_of,
    entries_of,
    is_file,
    is_folder,
    is_plain_name,
    read_bytes,
    read_json,
)
from ladle_engine.storage.json_text import MAX_BYTES, parse_json

OF_THE_OLD_MODEL = (
    *("*.index.json", "trainer_state*", "trainer_log*", "training*", "args.[!y]*", "optimizer*", "scheduler*"),
    *("rng_state*", "random_states*", "*_results.json", "*results*.txt", "results*.json", "*metric*", "*predictions*"),
    *("*scores*", "eval.*", "evaluation*", "*summary*", "trainer_config*", "hyperparameters*", "command.*", "cmd.*"),
    *("git_*", "git-*", "stdout*", "stderr*", "nohup*"),
    *(
        "eval_*",
        "test_*",
        "train_*",
        "train.[!y]*",
        "log.*",
        "logs.*",
        "log_*",
        "logs_*",
        "*history*",
        "loss*",
        "*loss.json",
    ),
    *("coefficients.json", "report.json", "wandb*", "events.out.*", "readme*", "latest*", "last_checkpoint*"),
    *("report.html", "requirements*.txt", "environment.y*ml", "dataset_info.json", "model_index.json"),
)
"""Scores, logs, settings of the training, indices of the old shards, the old model's card, what it was part of."""
NEVER = re.compile(
    r"""
      safetensors|pth?|bin|ckpt|tar|nemo|h5|hdf5|keras|msgpack|gguf|onnx|distcp|pdparams|pb|tflite
    | pkl|pickle|joblib|np[yz]|pyc?|ipynb|sh|so|c|cpp|cu|js|exe|slurm|sbatch
    | png|jpe?g|gif|svg|pdf|mp4|wav|zip|t?gz|bz2|xz|zst|7z|[ct]sv|jsonl|ndjson|parquet|arrow|db|sqlite|lmdb
    | log|out|err|html|md|rst|lock|te?mp|part|partial|incomplete|bak|orig|swp|md5|sha256|pid
    """,
    re.VERBOSE,
)
"""Suffixes of weights, pickles, code, pictures, archives, data and logs."""
WITHOUT_SUFFIX = ("license*", "notice*", "*vocab*", "*merges*", "*tokenizer*", "*dict*", "*bpe*")
DESCRIPTIONS = frozenset({"yaml", "yml", "json"})
"""`epoch_3.yaml` beside `epoch_3.pt` tells of that checkpoint: its loss, when it was saved."""
ITS_OWN_NAMES = frozenset({"model", "weights", "pytorch_model"})
"""`model.yaml` beside `model.pt` tells of the model."""
TEMPLATES = "additional_chat_templates"
"""Where transformers keeps a tokenizer's further chat templates."""
PICKLES = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
"""How a pickle, and a file of `torch.save`, begins, whatever its name."""
MOST_MODULES = 100
MOST_BYTES = 64 << 20
MOST_BYTES_IN_ALL = 256 << 20


@dataclass(frozen=True, kw_only=True)
class SideFiles:
    paths: tuple[Path, ...]
    left_out: tuple[str, ...]
    """What belongs to the model and is not copied all the same, each with the reason."""


USUAL_FOLDERS = frozenset({"checkpoints", "checkpoint", "ckpts", "ckpt", "weights"})
"""In which a run keeps its checkpoints, and nothing else: its other files are beside that folder."""


def places_of(run: Path, home: Path, folder: Path, root: Path) -> tuple[Path, ...]:
    """Where a model's files are looked for: beside the checkpoints of its run, beside its weights, then above."""
    above = [run.parent] if run.name in USUAL_FOLDERS and run != root else []
    places = dict.fromkeys((run, home, *above, folder))
    return tuple(place for place in places if place.is_relative_to(root))


def side_files(places: Sequence[Path], root: Path) -> SideFiles:
    """Config, tokenizer and the like, each name once, from the first place that has it.

    Raises `CheckpointError` (unreadable-input) for one that cannot be read.
    """
    paths: dict[Path, Path] = {}
    left_out: dict[Path, str] = {}
    room = MOST_BYTES_IN_ALL
    for base in places:
        for path in _belonging(base, root):
            name = path.relative_to(base)
            if name in paths or (usable := _usable(path, root, room)) is None:
                continue
            if isinstance(usable, str):
                left_out[name] = f"`{name}` ({usable})"
            else:
                room -= usable
                paths[name] = path
    return SideFiles(paths=tuple(paths.values()), left_out=tuple(left_out.values()))


def side_name(path: Path, places: Sequence[Path]) -> Path:
    """A side file's place beside the model that is written."""
    innermost = max((each for each in places if path.is_relative_to(each)), key=lambda each: len(each.parts))
    return path.relative_to(innermost)


@dataclass(frozen=True, kw_only=True)
class Config:
    values: dict[str, Any]
    path: Path
    sha256: str


def read_config(places: Sequence[Path], root: Path) -> Config | None:
    """The first `config.json`. Raises `CheckpointError`."""
    for path in (place / "config.json" for place in places):
        if leads_out(path, root):
            raise leading_out(path, or_else="")
        if is_file(path):
            return _read_config(path)
    return None


def _belonging(base: Path, root: Path) -> Iterator[Path]:
    for place in (base, base / TEMPLATES, *_modules(base, root)):
        if leads_out(place, root) or not is_folder(place):
            continue
        names = [each.name for each in entries_of(place) if not each.is_folder]
        checkpoints = {SUFFIXES.sub("", name).lower() for name in names if SUFFIXES.search(name)} - ITS_OWN_NAMES
        for name in names:
            stem, _, suffix = name.lower().rpartition(".")
            describes_one = suffix in DESCRIPTIONS and stem in checkpoints
            if _belongs(name.lower()) and not describes_one:
                yield place / name


def _belongs(name: str) -> bool:
    suffix = name.rpartition(".")[2] if "." in name else None
    if name.startswith(".") or is_unfinished(name) or any(fnmatch.fnmatchcase(name, old) for old in OF_THE_OLD_MODEL):
        return False
    if suffix is None:
        return any(fnmatch.fnmatchcase(name, kept) for kept in WITHOUT_SUFFIX)
    return not NEVER.fullmatch(suffix)


def _usable(path: Path, root: Path, room: int) -> int | str | None:
    """Its size; or why it is left out; or None where that is not worth a word."""
    if leads_out(path, root):
        return "a link that leads out"
    try:
        found = status(path)
        if not stat.S_ISREG(found.st_mode):
            return None
        if beginning_of(path, 4).startswith(PICKLES):
            return None
    except OSError as error:
        if (reason := why_missing(path, error)) is None:
            raise unreadable(path, error) from error
        return reason
    return f"too large: {found.st_size:,} bytes" if found.st_size > min(MOST_BYTES, room) else found.st_size


def _modules(base: Path, root: Path) -> list[Path]:
    """The folders that sentence-transformers' `modules.json` names, such as `1_Pooling`."""
    file = base / "modules.json"
    if leads_out(file, root):
        return []
    try:
        names = [module["path"] for module in read_json(file)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    plain = dict.fromkeys(name for name in names if isinstance(name, str) and is_plain_name(name))
    return [base / name for name in plain][:MOST_MODULES]


def _read_config(path: Path) -> Config:
    try:
        content = read_bytes(path, MAX_BYTES)
        parsed = parse_json(content)
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise CheckpointError(
            "corrupt-checkpoint", f"`{path}` must be a JSON file, but does not parse ({error})."
        ) from error
    if not isinstance(parsed, dict):
        raise CheckpointError(
            "corrupt-checkpoint", f"`{path}` must be a JSON object, but is a {type(parsed).__name__}."
        )
    return Config(values=parsed, path=path, sha256=hashlib.sha256(content).hexdigest())

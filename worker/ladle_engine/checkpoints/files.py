"""What the files of one folder are, by their names and status. None is opened but an index."""

from __future__ import annotations

import errno
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ladle_engine.checkpoints.name_parts import names_a_time, sounds_like_weights, words_of
from ladle_engine.checkpoints.other_formats import by_name
from ladle_engine.checkpoints.other_kinds import BEGINNING, begins_as_tar, other_kind
from ladle_engine.checkpoints.rank_names import parts_of_one
from ladle_engine.checkpoints.shards import INDEX, SHARD, shards_of
from ladle_engine.checkpoints.types import Checkpoint
from ladle_engine.errors import CheckpointError, EngineError
from ladle_engine.storage.boundary import status
from ladle_engine.storage.input_paths import beginning_of, is_file, is_folder, is_link, is_there, lies_in

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".nemo")
WEIGHTS = re.compile(r"\.(safetensors|pt|pth|bin|ckpt|tar|nemo)(?=\.|$)", re.IGNORECASE)
NOT_WEIGHTS = re.compile(
    r"(optim|scheduler|lr_scheduler|scaler|rng_state|random_states|training_args|trainer|adapter_model|train\.|sampler|dataloader|"
    r"opt[0-9]+\.|.*(optim|model)_states)",
    re.IGNORECASE,
)
"""Files that trainers leave beside the weights."""
UNFINISHED = re.compile(
    r"(.*[-_.])?tmp([-_.].*)?|.*\.(temp|part|partial|incomplete|crdownload|download)", re.IGNORECASE
)
FIX_OR_EXCLUDE = "Fix that, or leave it out with `exclude=`."
BY_ITS_NAME = "still being written, by its name"
NOT_READ = re.compile(
    r"(|model|weights?|params?|mdl|chkpt|state|zip|t?gz|bz2|xz|zst|bak|old|orig|save|[0-9]+|.*~)", re.IGNORECASE
)
"""Suffixes of files that may well be checkpoints, if their names say when they were saved."""
TRAINING_WORDS = frozenset({"optimizer", "optimiser", "optim", "scheduler", "scaler", "rng"})
"""In a name such as `epoch-1-optimizer.pt`."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A checkpoint by its name. Where it cannot be used, `refusal` says why; it is raised if the job would use it."""

    checkpoint: Checkpoint
    refusal: CheckpointError | None = None


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """An entry that might be taken for a checkpoint, and why it is not used."""

    name: str
    reason: str


def files_in(entries: Sequence[Path], root: Path) -> Iterator[Candidate | PassedOver]:
    """The checkpoints among the files of one folder: single files, and shards with their index."""
    of_ranks = parts_of_one(entries)
    for first, files in of_ranks.items():
        yield _found(first.name, files, "ranks", _problem_of_shards(files, root))
    others = {path for files in of_ranks.values() for path in files}
    entries = [entry for entry in entries if entry not in others]
    indices = [entry for entry in entries if INDEX.fullmatch(entry.name)]
    for index in indices:
        yield _sharded(index, root)
    for entry in entries:
        if not SHARD.fullmatch(entry.name):
            if (found := _single(entry, root)) is not None:
                yield found
        elif not indices:
            yield PassedOver(name=entry.name, reason="a shard without its index")


def is_unfinished(name: str) -> bool:
    return UNFINISHED.fullmatch(name) is not None


def unreadable(path: Path, error: OSError, what_to_do: str = "Fix that.") -> CheckpointError:
    return CheckpointError(
        "unreadable-input", f"`{path}` must be readable, but is not: {error.strerror or error}. {what_to_do}"
    )


def refuse_unreadable(path: Path) -> None:
    """Raises `CheckpointError` (unreadable-input), or (corrupt-checkpoint) for what begins as another kind of file."""
    try:
        found = other_kind(path.suffix.lower(), beginning_of(path, BEGINNING))
    except OSError as error:
        raise unreadable(path, error, FIX_OR_EXCLUDE) from error
    if found is not None:
        raise CheckpointError(
            "corrupt-checkpoint",
            f"The checkpoint file `{path}` must hold weights, but is {found}, or leave it out with `exclude=`.",
        )


def problem_of(path: Path, root: Path) -> CheckpointError | str | None:
    """Why a file cannot be used: an error where a person must decide, a reason where it can be passed over."""
    if leads_out(path, root):
        return leading_out(path)
    try:
        found = status(path)
    except OSError as error:
        return why_missing(path, error) or unreadable(path, error, FIX_OR_EXCLUDE)
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    return None if found.st_size else "empty"


def why_missing(path: Path, error: OSError) -> str | None:
    if error.errno == errno.ELOOP:
        return "a link to itself"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "a link to nothing" if is_link(path) else "removed just now"
    return None


def leading_out(path: Path, or_else: str = ", or leave it out with `exclude=`") -> CheckpointError:
    return CheckpointError(
        "path-not-allowed",
        f"Everything that is used in `ckpt_dir=` must lie inside it, but `{path}` is a link that leads out. Copy it "
        f"into the folder{or_else}.",
    )


def leads_out(path: Path, root: Path) -> bool:
    """Whether it leaves the folder by a link. Nothing outside is looked at."""
    return not lies_in(path, root)


def seems_folder(path: Path) -> bool:
    """Not for what is out of reach or outside of the boundary: it is refused when it would be used."""
    with suppress(OSError, EngineError):
        return is_folder(path)
    return False


def seems_file(path: Path) -> bool:
    """The same for a regular file."""
    with suppress(OSError, EngineError):
        return is_file(path)
    return False


def _sharded(index: Path, root: Path) -> Candidate | PassedOver:
    reader = "safetensors" if ".safetensors." in index.name else "pickle"
    if (problem := problem_of(index, root)) is not None:
        return _found(index.name, (index,), reader, problem)
    try:
        shards = shards_of(index)
    except CheckpointError as error:
        return _found(index.name, (index,), reader, error)
    except OSError as error:
        return _found(index.name, (index,), reader, unreadable(index, error, FIX_OR_EXCLUDE))
    return _found(index.name, shards, reader, _problem_of_shards(shards, root))


def _problem_of_shards(shards: Sequence[Path], root: Path) -> CheckpointError | str | None:
    for shard in shards:
        if not is_there(shard):
            return f"names `{shard.name}`, which is not there"
        if (problem := problem_of(shard, root)) is not None:
            return f"its shard `{shard.name}` is {problem}" if isinstance(problem, str) else problem
    return None


def _single(path: Path, root: Path) -> Candidate | PassedOver | None:
    name, suffix = path.name, path.suffix.lower()
    if NOT_WEIGHTS.match(name) or seems_folder(path):
        return None
    if (other := by_name(name)) is not None:
        return PassedOver(name=name, reason=other.reason) if sounds_like_weights(name) else None
    if WEIGHTS.search(name) and is_unfinished(name):
        return PassedOver(name=name, reason=BY_ITS_NAME)
    if not name.lower().endswith((".safetensors", *PICKLE_SUFFIXES)):
        return _not_read(path, root)
    if words_of(name) & TRAINING_WORDS:
        return PassedOver(name=name, reason="what a trainer keeps beside the weights, by its name")
    problem = problem_of(path, root)
    if problem is None and suffix == ".tar" and _is_archive(path):
        problem = "an archive of files"
    return _found(name, (path,), "safetensors" if suffix == ".safetensors" else "pickle", problem)


def _not_read(path: Path, root: Path) -> PassedOver | None:
    may_be_one = NOT_READ.fullmatch(path.suffix.removeprefix(".")) and names_a_time(path.name)
    if not may_be_one or problem_of(path, root) is not None:
        return None
    read = ", ".join((".safetensors", *PICKLE_SUFFIXES))
    return PassedOver(name=path.name, reason=f"its name ends in none of {read}")


def _found(
    name: str, files: tuple[Path, ...], reader: str, problem: CheckpointError | str | None
) -> Candidate | PassedOver:
    if isinstance(problem, str):
        return PassedOver(name=name, reason=problem)
    return Candidate(checkpoint=Checkpoint(name=name, step=None, files=files, format=reader), refusal=problem)


def _is_archive(path: Path) -> bool:
    try:
        return begins_as_tar(beginning_of(path, BEGINNING))
    except OSError:
        return False

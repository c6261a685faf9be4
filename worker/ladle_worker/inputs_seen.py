"""What this node sees of a job's inputs: `python -m ladle_worker.inputs_seen`.

The nodes of a job compare it before their ranks start. Reads one line of stdin, `{"roots": [...], "inputs": [{"field":
..., "path": ..., "weights": ...}]}`, and prints what `seen` says for each field. It imports no torch, and takes little
longer than a listing: of each file it reads the beginning and the end, where all formats keep their headers.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ladle_contracts.roots import PathNotAllowed, Roots, splits

SAMPLE_BYTES = 16 << 10
MOST_SAMPLED = 2_000
MOST_LISTED = 50_000
"""Of more files than this the first ones are compared, in the order of their names. The ranks compare all."""
MOST_TOLD = 200
"""How many parts of an input are told one by one."""
WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|tar|distcp|npz|npy|msgpack|h5)|\.metadata|(adapter_)?config\.json|.*\.index\.json",
    re.IGNORECASE,
)
NOT_WEIGHTS = re.compile(
    r".*(optim|scheduler|rng_state|random_states|scaler|training_args|events\.out).*", re.IGNORECASE
)
"""What a training keeps beside its checkpoints: the copy of a node may lack it."""


@dataclass
class Part:
    """A checkpoint, or whatever lies directly in the folder."""

    files: int = 0
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    with Roots(asked["roots"]) as roots:
        told = {each["field"]: seen(Path(each["path"]), roots, weights=each["weights"]) for each in asked["inputs"]}
    print(json.dumps(told), flush=True)


def seen(path: Path, roots: Roots, *, weights: bool) -> dict[str, Any]:
    """`files` and a `digest` of all of them, and what `parts` there are: `[files, bytes, digest]` by name.

    With `weights` only files that look like weights or configs count.
    """
    folder, files = _found(path, roots)
    parts: dict[str, Part] = {}
    total = hashlib.sha256()
    number = 0
    for file, size in files:
        name = str(file.relative_to(folder))
        if weights and not _is_weights(file.name):
            continue
        number += 1
        line = f"{name}\0{size}\0{_sample(file, size, roots) if number <= MOST_SAMPLED else ''}\n"
        part = parts.setdefault(name.partition("/")[0], Part())
        part.files, part.size = part.files + 1, part.size + size
        for digest in (total, part.digest):
            digest.update(line.encode(errors="surrogateescape"))
        if number == MOST_LISTED:
            break
    told = {name: [part.files, part.size, part.digest.hexdigest()[:12]] for name, part in sorted(parts.items())}
    return {"files": number, "digest": total.hexdigest(), "parts": dict(list(told.items())[:MOST_TOLD])}


def _is_weights(name: str) -> bool:
    return bool(WEIGHTS.fullmatch(name)) and not NOT_WEIGHTS.fullmatch(name)


def _found(path: Path, roots: Roots) -> tuple[Path, Iterator[tuple[Path, int]]]:
    """All files of an input with their sizes, and the folder that they are named in."""
    for folder, rest in splits(path):
        mode = _mode(folder, roots)
        if mode is None:
            continue
        if stat.S_ISREG(mode):
            return folder.parent, iter([(folder, roots.status(folder).st_size)])
        places = [folder] if rest == Path() else sorted(folder.glob(str(rest)))
        return folder, (file for place in places for file in _below(place, roots))
    return path, iter(())


def _below(place: Path, roots: Roots) -> Iterator[tuple[Path, int]]:
    """In order of their names. Hidden files count where a format has them, and links lead no further than the roots."""
    met: set[tuple[int, int]] = set()
    waiting = [place]
    while waiting:
        path = waiting.pop()
        try:
            status = roots.status(path)
            if stat.S_ISREG(status.st_mode):
                yield path, status.st_size
                continue
            identity = (status.st_dev, status.st_ino)
            if not stat.S_ISDIR(status.st_mode) or identity in met:
                continue
            met.add(identity)
            names = _names_in(path, roots)
        except (OSError, PathNotAllowed) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOENT:
                continue
            yield path, -1
            continue
        waiting += [path / name for name in sorted(names, reverse=True) if name == ".metadata" or name[0] != "."]


def _names_in(folder: Path, roots: Roots) -> list[str]:
    descriptor = roots.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.listdir(descriptor)  # noqa: PTH208 - of a descriptor
    finally:
        os.close(descriptor)


def _mode(path: Path, roots: Roots) -> int | None:
    try:
        return roots.status(path).st_mode
    except (OSError, PathNotAllowed):
        return None


def _sample(path: Path, size: int, roots: Roots) -> str:
    """Of the beginning and the end. What cannot be read differs from what can."""
    try:
        descriptor = roots.open(path)
        try:
            begin = os.pread(descriptor, SAMPLE_BYTES, 0)
            end = os.pread(descriptor, SAMPLE_BYTES, max(0, size - SAMPLE_BYTES))
        finally:
            os.close(descriptor)
    except (OSError, PathNotAllowed) as error:
        return type(error).__name__
    return hashlib.sha256(begin + end).hexdigest()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)

"""Files of several ranks that are one checkpoint: `step10_rank0.pt`, `step10_rank1.pt`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ladle_engine.checkpoints.dcp.rank_files import holds_parts
from ladle_engine.errors import EngineError
from ladle_engine.storage.input_file import InputFile
from ladle_engine.storage.input_paths import entries_of

RANK = re.compile(r"(?<![A-Za-z])rank[-_=]?([0-9]{1,6})(?![0-9])", re.IGNORECASE)


def parts_of_one(paths: Sequence[Path]) -> Mapping[Path, tuple[Path, ...]]:
    """The first file of each such checkpoint -> all of its files, in the order of their ranks.

    Looked at is the first file of those that have names of ranks from 0 on: they may be whole checkpoints each.
    """
    groups: dict[tuple[Path, str], dict[int, Path]] = defaultdict(dict)
    for path in paths:
        if (found := RANK.search(path.name)) is not None and path.suffix.lower() in (".pt", ".pth", ".bin", ".ckpt"):
            key = (path.parent, path.name[: found.start(1)] + "*" + path.name[found.end(1) :])
            groups[key].setdefault(int(found[1]), path)
    in_order = (tuple(group[rank] for rank in sorted(group)) for group in groups.values() if 0 in group)
    return {group[0]: group for group in in_order if len(group) > 1 and _holds_parts(group[0])}


def others_of(path: Path) -> list[Path]:
    """What lies beside a file of a rank and may be the same checkpoint."""
    if RANK.search(path.name) is None:
        return []
    with suppress(OSError, EngineError):
        return [path.parent / each.name for each in entries_of(path.parent) if RANK.search(each.name)]
    return []


def _holds_parts(path: Path) -> bool:
    try:
        with InputFile(path) as file:
            return holds_parts(file)
    except (OSError, EngineError):
        return False

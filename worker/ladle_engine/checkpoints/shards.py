"""The shards of a checkpoint and the index that names them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ladle_engine.checkpoints.safetensors_file import corrupt
from ladle_engine.storage.input_paths import read_bytes

INDEX = re.compile(r".+\.(safetensors|bin)\.index\.json")
SHARD = re.compile(r".+-[0-9]{5}-of-[0-9]{5}\.(safetensors|bin)")


def shards_of(index: Path) -> tuple[Path, ...]:
    """The files that an index names, each checked to be a plain name beside it.

    Raises `CheckpointError` (corrupt-checkpoint) for an index that is none, and `OSError`.
    """
    try:
        parsed = json.loads(read_bytes(index))
        names = sorted(set(parsed["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise corrupt(index, "must be a JSON object with a `weight_map` of file names") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise corrupt(index, f"must name shards beside it, but names {name!r}")
    return tuple(index.parent / name for name in names)

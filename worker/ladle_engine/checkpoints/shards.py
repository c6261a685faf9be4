"""The shards of a checkpoint and the index that names them."""

from __future__ import annotations

import re
from pathlib import Path

from ladle_engine.checkpoints.safetensors_file import corrupt
from ladle_engine.storage.input_paths import is_plain_name, read_json

INDEX = re.compile(r".+\.(safetensors|bin)\.index\.json")
MAX_SHARDS = 10_000
SHARD = re.compile(r".+-[0-9]{5}-of-[0-9]{5}\.(safetensors|bin)")


def shards_of(index: Path) -> tuple[Path, ...]:
    """The files that an index names, each checked to be a plain name beside it.

    Raises `CheckpointError` (corrupt-checkpoint) for an index that is none, and `OSError`.
    """
    try:
        parsed = read_json(index)
        names = sorted(set(parsed["weight_map"].values()))
    except ValueError as error:
        raise corrupt(index, f"must be a JSON file, but does not parse ({error})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise corrupt(index, "must be a JSON object with a `weight_map` of file names") from error
    if not 1 <= len(names) <= MAX_SHARDS:
        raise corrupt(index, f"must name 1 to {MAX_SHARDS:,} shards, but names {len(names):,}")
    for name in names:
        if not isinstance(name, str) or not is_plain_name(name) or INDEX.fullmatch(name):
            raise corrupt(index, f"must name shards beside it, but names {name!r}")
    return tuple(index.parent / name for name in names)

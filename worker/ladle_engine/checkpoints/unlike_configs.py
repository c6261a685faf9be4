"""Runs of one architecture may have been configured differently: the result has the config of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ladle_engine.checkpoints.order import runs_of
from ladle_engine.checkpoints.side_files import places_of, read_config
from ladle_engine.checkpoints.sources import Sources
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet
from ladle_engine.errors import CheckpointError

OF_NO_ACCOUNT = frozenset({"_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype"})
LABELS = frozenset({"id2label", "label2id"})
MOST_RUNS = 100
"""That are compared."""
MOST_NAMES = 5


def unlike_configs(found: CheckpointSet, sources: Sources) -> tuple[str, ...]:
    """A warning that names what differs, where there are several runs."""
    runs = list(runs_of(found.checkpoints).values())
    if found.config is None or len(runs) < 2:
        return ()
    settings: set[str] = set()
    unlike: list[str] = []
    for checkpoints in runs[:MOST_RUNS]:
        other = _config(checkpoints[-1], found, sources)
        if other is not None and (names := _differing(found.config, other)):
            settings |= names
            unlike.append(checkpoints[0].run)
    if not unlike:
        return ()
    more = f" and {len(unlike) - 1} more runs" if len(unlike) > 1 else ""
    labels = " If labels stand in another order there, an average means nothing." if settings & LABELS else ""
    return (
        f"`config.json` of `{unlike[0]}`{more} differs in {_listed(sorted(settings))} from that of "
        f"`{found.reference.run}`, which is used.{labels}",
    )


def _config(checkpoint: Checkpoint, found: CheckpointSet, sources: Sources) -> Mapping[str, Any] | None:
    with suppress(CheckpointError, OSError):
        root = sources.root_of(checkpoint.files[0])
        run = found.folder / checkpoint.run
        config = read_config(places_of(run, checkpoint.files[0].parent, found.folder, root), root)
        return None if config is None else config.values
    return None


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)} - OF_NO_ACCOUNT


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(f"`{name}`" for name in names[:MOST_NAMES]) + more

"""The command that does what a callback would have done."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from ladle_contracts import JobSpec
from ladle_contracts.command_flags import FLAGS, Flag


def command_of(spec: JobSpec) -> str:
    """`ladle run FOLDER VAL_SET`, with the flags of what is not by default."""
    given = spec.model_dump(mode="json", exclude_unset=True)
    folder, *others = spec.ckpt_dirs.values()
    sets = (
        [spec.val_set] if isinstance(spec.val_set, str) else [f"{name}={path}" for name, path in spec.val_set.items()]
    )
    flags = [word for flag in FLAGS for word in _words(flag, _at(flag.path, given))]
    also = [word for path in others for word in ("--also", path)]
    return shlex.join(["ladle", "run", folder, *sets, *also, *flags])


def _at(path: str, values: Any) -> Any:
    for name in path.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _words(flag: Flag, value: Any) -> Iterator[str]:
    if value is None or value is False:
        return
    if flag.is_switch:
        yield flag.name
    elif flag.is_pair:
        for name, inner in value.items():
            for each in [inner] if isinstance(inner, str) else inner:
                yield from (flag.name, name, each)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from (flag.name, f"{name}={inner if isinstance(inner, str) else json.dumps(inner)}")
    elif flag.is_repeatable:
        for each in [value] if isinstance(value, str) else value:
            yield from (flag.name, each)
    else:
        yield from (flag.name, ",".join(map(str, value)) if isinstance(value, list) else str(value))

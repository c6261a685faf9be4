"""What the checkpoints' own model card says of them: the block at the beginning of a `README.md` beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.files import leads_out
from ladle_engine.errors import EngineError
from ladle_engine.pipeline.hub_ids import is_language, is_license, is_model_id, is_repo_id, listed
from ladle_engine.storage.input_paths import is_file, read_bytes

CARD_FILE = "README.md"
MOST_BYTES = 1 << 20
MOST_OF_BLOCK = 64 << 10
MOST_VALUES = 20
_BLOCK = re.compile(r"\s*---\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", re.DOTALL)
_PLAIN: Mapping[str, Callable[[object], bool]] = {
    "base_model": is_model_id,
    "license": is_license,
    "license_name": is_license,
    "license_link": lambda value: isinstance(value, str) and bool(re.fullmatch(r"https://[!-~]{1,300}|LICENSE", value)),
    "language": is_language,
    "datasets": is_repo_id,
}
"""Key -> what a value of it must be. All else is left where it is."""
_SINGLE = ("license", "license_name", "license_link")


def own_card(places: Sequence[Path], root: Path) -> dict[str, Any]:
    """Each known key from the first card that has it. What cannot be read, or is no such block, says nothing."""
    found: dict[str, Any] = {}
    for place in places:
        for name, value in _facts(_block(place / CARD_FILE, root)).items():
            # A license goes with its own name and link.
            if not name.startswith("license_") or "license" not in found:
                found.setdefault(name, value)
    return found


def _block(path: Path, root: Path) -> Mapping[Any, Any]:
    # Here, because PyYAML takes its time.
    from ladle_engine.checkpoints.plain_yaml import read_yaml

    with suppress(OSError, EngineError, ValueError):
        if leads_out(path, root) or not is_file(path):
            return {}
        text = read_bytes(path, MOST_BYTES)[:MOST_BYTES].decode(errors="replace").removeprefix("\ufeff")
        block = _BLOCK.match(text)
        if block is not None and len(block[1]) <= MOST_OF_BLOCK:
            values = read_yaml(block[1])
            return values if isinstance(values, dict) else {}
    return {}


def _facts(values: Mapping[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, is_right in _PLAIN.items():
        # YAML takes Norwegian for a truth value.
        given = ["no" if value is False and name == "language" else value for value in listed(values.get(name))]
        known = list(dict.fromkeys(value for value in given if is_right(value)))[:MOST_VALUES]
        if known:
            found[name] = known[0] if name in _SINGLE else known
    if "license" not in found:
        return {name: value for name, value in found.items() if name not in _SINGLE}
    return found

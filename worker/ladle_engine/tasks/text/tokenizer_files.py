"""A tokenizer's files beside the checkpoints, copied to a folder of their own without what names code or files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.side_files import MOST_BYTES, TEMPLATES, side_name
from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import TaskError
from ladle_engine.storage.input_paths import read_bytes
from ladle_engine.storage.json_text import parse_json

CONFIG = "tokenizer_config.json"
SETTINGS = (CONFIG, "special_tokens_map.json")
"""Their values become arguments of the tokenizer's class."""
NOT_OF_TOKENIZERS = frozenset({"config.json", "generation_config.json", "preprocessor_config.json", "modules.json"})
DROPPED = frozenset(
    {
        *("auto_map", "trust_remote_code", "init_inputs", "custom_files", "backend", "tokenizer_object", "is_local"),
        *("vocab", "merges", "source_spm", "target_spm", "name_or_path", "gguf_file", "fast_tokenizer_files"),
        *("cache_dir", "subfolder", "revision", "token", "local_files_only", "post_processor", "use_fast"),
    }
)
"""Settings that older tools leave behind, or that name code or a file: transformers looks for files by their names."""
DROPPED_ENDINGS = ("_file", "_files", "_path", "_dir")
MOST_VALUES = 8_000_000
"""Of one JSON file. The vocabulary and merges of Gemma have 2.5 million."""
MOST_ADDED = 1 << 24
"""The largest id of a token. Some tokenizers make a list as long as that."""


def copy_tokenizer_files(checkpoints: CheckpointSet, folder: Path) -> dict[str, Any]:
    """Into `folder`. Returns all that `tokenizer_config.json` says, also what is not in the copy; `{}` without one.

    Raises `TaskError` (model-mismatch) for settings that are broken or would start code.
    """
    settings: dict[str, Any] = {}
    for path in checkpoints.side_files:
        name = side_name(path, checkpoints.places)
        if name.name in NOT_OF_TOKENIZERS or name.parent.name not in ("", TEMPLATES):
            continue
        content = _read(path)
        if not content and name.name not in SETTINGS:
            # transformers would take it for a vocabulary without words.
            continue
        parsed = _parsed(path, content) if name.suffix == ".json" else None
        if name.name in SETTINGS:
            values = _object(path, parsed)
            content = json.dumps(_without_files(path, values)).encode()
            settings = values if name.name == CONFIG else settings
        if name.name == "added_tokens.json":
            _refuse_large_ids(path, _object(path, parsed).values())
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
    return settings


def _read(path: Path) -> bytes:
    try:
        content = read_bytes(path, MOST_BYTES)
    except OSError as error:
        raise TaskError("model-mismatch", f"`{path}` must be readable, but is not ({error}).") from error
    if len(content) > MOST_BYTES:
        raise TaskError("model-mismatch", f"`{path}` must have at most {MOST_BYTES:,} bytes, but has more.")
    return content


def _parsed(path: Path, content: bytes) -> Any:
    try:
        return parse_json(content, most_bytes=MOST_BYTES, most_values=MOST_VALUES)
    except ValueError as error:
        raise TaskError("model-mismatch", f"`{path}` must be a JSON file, but does not parse ({error}).") from error


def _object(path: Path, parsed: Any) -> dict[str, Any]:
    if not isinstance(parsed, dict):
        raise TaskError("model-mismatch", f"`{path}` must be a JSON object, but is a {type(parsed).__name__}.")
    return parsed


def _without_files(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that open files. What would change the tokens and cannot be kept is refused."""
    kept = {name: value for name, value in values.items() if name not in DROPPED and not name.endswith(DROPPED_ENDINGS)}
    for name, value in kept.items():
        if name.endswith("_kwargs") and value:
            # `sp_model_kwargs` may sample at random, `mecab_kwargs` may load any dictionary.
            raise TaskError(
                "model-mismatch",
                f"`{name}` in `{path}` must be empty, because it may make a tokenizer random or load other files, but "
                f"is {repr(value)[:100]}.",
            )
    _refuse_large_ids(path, kept.get("added_tokens_decoder") or {})
    return kept


def _refuse_large_ids(path: Path, ids: Any) -> None:
    for each in ids:
        try:
            fits = 0 <= int(each) <= MOST_ADDED
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise TaskError(
                "model-mismatch",
                f"The ids of added tokens in `{path}` must be whole numbers from 0 to {MOST_ADDED:,}, but one is "
                f"{repr(each)[:100]}.",
            )

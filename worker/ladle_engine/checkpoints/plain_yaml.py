"""YAML of strangers, as plain values: it makes no small file large, and fails in one way."""

from __future__ import annotations

from typing import Any

import yaml


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Without merge keys, which double what they merge again and again."""

    def flatten_mapping(self, node: Any) -> None:
        pass


def read_yaml(text: str | bytes) -> Any:
    """Raises ValueError for whatever is wrong with it."""
    try:
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a `SafeLoader`
    except Exception as error:  # of `!!bool maybe` it is a KeyError, of `!!timestamp x` an AttributeError
        raise ValueError(f"not YAML that can be read: {type(error).__name__}") from error

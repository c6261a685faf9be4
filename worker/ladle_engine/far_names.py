"""Names of far files: what is read from a local mirror is shown by the address that it came from."""

from __future__ import annotations

import re

from ladle_engine.far_urls import SCHEMES

_mirrors: dict[str, re.Pattern[str]] = {}


def show_mirror(folder: str) -> None:
    """From now on `<folder>/s3/bucket/file` is shown as `s3://bucket/file`."""
    _mirrors[folder] = re.compile(rf"{re.escape(folder)}/({'|'.join(SCHEMES)})/")


def in_far_names(text: str) -> str:
    """The same text with addresses for paths in a mirror."""
    for pattern in _mirrors.values():
        text = pattern.sub(r"\1://", text)
    return text

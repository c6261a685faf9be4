"""The files that pages consist of besides their text."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"
PALETTE_FILE = STATIC / "ladle.css"


@cache
def style() -> str:
    """The palette and the drawings' classes: what a page needs that shows drawings."""
    return PALETTE_FILE.read_text()


@cache
def static(name: str) -> str:
    """The text of one file."""
    return (STATIC / name).read_text()


def source_hash(text: str) -> str:
    """As a Content-Security-Policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

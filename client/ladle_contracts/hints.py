"""What a person may have meant by a name that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence; empty where no known name is like this one."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean `{near[0]}`?" if near else ""

"""Which run a path is of, as part of a name. `ladle_contracts` and `ladle_report` have the same file, because the
engine imports the second and not the first."""

from __future__ import annotations

import re

SAYS_NOTHING = re.compile(
    r"((all|best|saved?|trained)[-_]?)?(checkpoints?|ckpts?|weights|models?|saves|snapshots|states?|outputs?|out|results?|runs?)"
    r"|version_[0-9]+|lightning_logs|ladle|kept|default|tmp|data|[.]+",
    re.IGNORECASE,
)
"""Names of folders in which every run keeps its checkpoints: then the folder above says which run it is.

`ladle` and `kept` are what our callbacks and their documents call them."""
UNSAFE = re.compile(r"[^A-Za-z0-9_.+=@-]+")
MOST_CHARS = 80


def run_of(ckpt_dir: str) -> str:
    """The last folder of a path that says which run it is, as part of a name; empty where none does."""
    for part in reversed(re.split(r"[/\\]+", ckpt_dir.partition("://")[2] or ckpt_dir)):
        if part and not SAYS_NOTHING.fullmatch(part) and not re.search(r"[*?\[\]]", part) and (run := safe_name(part)):
            return run
    return ""


def safe_name(text: str) -> str:
    return UNSAFE.sub("-", text)[:MOST_CHARS].strip("-.+=@_")

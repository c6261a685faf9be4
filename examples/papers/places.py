"""Where the rows keep what they train and download, and how a thing is made once and never twice."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CACHE = Path(os.environ.get("LADLE_EVIDENCE_CACHE", REPOSITORY / ".cache" / "evidence"))
"""Packages, data and checkpoints; nothing here is ever committed."""
RESULTS = REPOSITORY / "docs" / "evidence"

# The benchmarks know how to unpack packages; they keep them where they are told when they are imported.
os.environ.setdefault("LADLE_BENCH_CACHE", str(CACHE))
sys.path.append(str(REPOSITORY / "benchmarks"))


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, which `make` fills unless it is there already. It appears whole or not at all."""
    if not folder.exists():
        staging = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            make(staging)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return folder

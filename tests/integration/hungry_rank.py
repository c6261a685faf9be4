"""The real rank, but it takes memory without end in the middle of the job. A label says how it dies of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from ladle_engine.subspace.geometry import Geometry
from ladle_worker import rank

BLOCK = 1 << 30


def take(how: str) -> None:
    """Takes what it never touches, so that a test takes none of the machine's memory."""
    held: list[object] = []
    if how == "rust":
        print("memory allocation of 1073741824 bytes failed", file=sys.stderr, flush=True)
        os.abort()
    while True:
        held.append(torch.empty(BLOCK, dtype=torch.uint8) if how == "torch" else np.empty(BLOCK, dtype=np.uint8))


def main(attempt_folder: str) -> int:
    how = json.loads((Path(attempt_folder) / "job.json").read_text())["spec"]["labels"]["how"]

    def hungry(self: Geometry) -> object:
        return take(how)

    Geometry.duplicates = hungry  # type: ignore[assignment, method-assign]
    return rank.main(attempt_folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

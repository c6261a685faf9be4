"""The real rank of a Ladle with a mistake in it: `LADLE_RANK_MODULE` of one test."""

from __future__ import annotations

import sys

from ladle_engine.subspace.geometry import Geometry
from ladle_worker import rank


def mistaken(self: Geometry) -> object:
    return {}["a mistake"]


if __name__ == "__main__":
    Geometry.duplicates = mistaken  # type: ignore[assignment, method-assign]
    sys.exit(rank.main(sys.argv[1]))

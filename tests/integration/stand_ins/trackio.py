"""Stands in for a tracker's library whose server never answers: `tests/integration/test_trackers.py`."""

import time
from typing import Any


def init(**_: Any) -> None:
    time.sleep(3600)

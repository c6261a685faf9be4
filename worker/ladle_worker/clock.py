"""A clock that also runs while the machine sleeps, and that all processes of a machine share."""

from __future__ import annotations

import time


def now() -> float:
    """Seconds since some moment. Where the system cannot tell, the time of sleep is missing."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

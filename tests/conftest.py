"""Before any test imports torch; and how many processes share the tests."""

import os

import psutil
import pytest

# Toy models gain nothing from threads, and where other processes want the cores, threads that wait for each other make
# these tests ten times as slow. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

WORKER_BYTES = 4 << 30
"""What one process of the suite may need at its peak, with the ranks that its tests start."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For `-n auto`: three workers per two idle cores, as far as memory lasts; one at least.

    Much of a test's time is spent waiting for leases, heartbeats and the limits that it is about.
    """
    cores = len(os.sched_getaffinity(0))
    busy = round(psutil.cpu_percent(interval=1.0) / 100 * cores)
    by_memory = psutil.virtual_memory().available // WORKER_BYTES
    return max(1, min(round(1.5 * (cores - busy)), by_memory))

"""Before any test imports torch; how many processes share the tests; and which tests did not end."""

import os
import time

import psutil
import pytest

# Toy models gain nothing from threads, and where other processes want the cores, threads that wait for each other make
# these tests ten times as slow. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

WORKER_BYTES = 4 << 30
"""What one process of the suite may need at its peak, with the ranks that its tests start."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For `-n auto`: three workers per two idle cores, but one per core at least, as far as memory lasts.

    Much of a test's time is spent waiting for leases, heartbeats and the limits that it is about.
    """
    cores = len(os.sched_getaffinity(0))
    busy = round(psutil.cpu_percent(interval=1.0) / 100 * cores)
    by_memory = psutil.virtual_memory().available // WORKER_BYTES
    # What is busy now may be the end of what came before.
    return max(1, min(max(cores, round(1.5 * (cores - busy))), by_memory))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Unfinished(), "unfinished")


class Unfinished:
    """Of a run that is interrupted, says which tests were running: one that hangs has printed nothing."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._began[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._began.pop(nodeid, None)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for nodeid, began in self._began.items():
            terminalreporter.write_line(f"Still running after {time.monotonic() - began:.0f} s: {nodeid}")

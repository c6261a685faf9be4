"""Whether the kernel has ended a process for want of memory, and whether a rank's last words were about memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
WHOLE_MACHINE = Path("/proc/vmstat")
COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)

NO_MEMORY = (
    "The job must fit into free memory, but a rank was ended because there was no more. Give a smaller task option "
    "`batch_size`, or a node with more memory."
)

LAST_WORDS = re.compile(
    r"bad_alloc|memory allocation of \d+ bytes failed|MemoryError\b|an(no|')t allocate memory|out of memory"
    r"|Thread creation failed|can't start new thread",
    re.IGNORECASE,
)
"""Of C++, Rust, Python, torch, OpenMP: a library may end the whole process where it cannot have more."""


def count_kills() -> int:
    """How many processes of this one's control group were ended so far; of the machine where there is no such count."""
    for path in (*_counters(), WHOLE_MACHINE):
        try:
            found = COUNT.search(path.read_text())
        except OSError:
            continue
        if found:
            return int(found[1])
    return 0


def _counters() -> Iterator[Path]:
    """Of both versions of control groups. In a container the own group may be mounted as the root."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, name = CONTROL_GROUPS / "memory", "memory.oom_control"
        elif not controllers:
            root, name = CONTROL_GROUPS, "memory.events"
        else:
            continue
        yield root / path.lstrip("/") / name
        yield root / name


def about_memory(lines: Iterable[str]) -> bool:
    """For the end of a log of ranks that ended without an outcome."""
    return any(LAST_WORDS.search(line) for line in lines)

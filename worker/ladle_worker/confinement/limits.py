"""What a rank may take: files, descriptors, privileges; and its share of the memory that is free when it starts."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from ladle_contracts.roots import splits
from ladle_worker.confinement.system import PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, keep_capabilities, prctl

MAX_FILES = 65_536
"""Descriptors of one rank: hundreds of checkpoints of dozens of shards each."""
FILE_FACTOR = 8
"""A rank's largest file is a model as big as a checkpoint, or directions in a wider type: at most this many times what
the checkpoints take together."""
FILE_SPARE_BYTES = 1 << 30
MOST_FILES_COUNTED = 100_000
FREE_FRACTION = 0.9
"""No file may fill the disk."""
OOM_SCORE = 500
"""When memory is short, the kernel ends ranks first, and not Redis or the agent."""
THREAD_BYTES = 8 << 20
"""A thread's stack counts as a whole, though little of it is ever touched."""
SPARE_BYTES = 512 << 20
"""For threads, arenas and pools that are set up later and not touched."""

KEPT_CAPABILITIES = frozenset((0, 1, 2, 3, 4, 14))
"""chown, dac_override, dac_read_search, fowner, fsetid, ipc_lock: root still reads and writes everybody's files."""


def give_up_privileges() -> None:
    """This process, and all that it starts, has no privileges from here on; root's has those over files only.

    An ordinary user's process has all of them in a user namespace that it has just made.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() == 0:
        for capability in range(64):
            # Beyond the kernel's last one, or in a container without the capability to drop any.
            with suppress(OSError):
                if capability not in KEPT_CAPABILITIES:
                    prctl(PR_CAPBSET_DROP, capability)
    # Ranks are forked: the bounding set alone would bind only what they start as another program.
    keep_capabilities(KEPT_CAPABILITIES if os.geteuid() == 0 else ())


def limit_resources(inputs: Sequence[Path], outputs: Path) -> None:
    """Of this process and all that it starts: core dumps, descriptors, the size of a file."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, MAX_FILES)
    _lower(resource.RLIMIT_FSIZE, max_file_bytes(inputs, outputs))
    end_first_without_memory()


def end_first_without_memory() -> None:
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def max_file_bytes(inputs: Sequence[Path], outputs: Path) -> int:
    """The largest file that a job with these checkpoints may write."""
    room = round(FREE_FRACTION * shutil.disk_usage(outputs).free)
    files = list(islice((path for each in inputs for path in _files_in(each)), MOST_FILES_COUNTED + 1))
    if len(files) > MOST_FILES_COUNTED:
        # A project with its data. To count on would take long, and the job needs no tighter limit.
        return room
    return min(FILE_FACTOR * sum(map(_size, files)) + FILE_SPARE_BYTES, room)


def _files_in(path: Path) -> Iterator[Path]:
    """The files below a folder, or below that of a glob; a file itself."""
    there = next((folder for folder, _ in splits(path) if folder.exists()), path)
    yield from [there] if there.is_file() else (Path(at) / name for at, _, names in os.walk(there) for name in names)


def limit_memory(free_bytes: int) -> None:
    """This process may take `free_bytes` in addition to what it has.

    RLIMIT_DATA counts private writable memory. RLIMIT_AS would count mapped files, and what CUDA only reserves.
    """
    threads = 4 * len(os.sched_getaffinity(0))
    _lower(resource.RLIMIT_DATA, _private_bytes() + free_bytes + threads * THREAD_BYTES + SPARE_BYTES)


def _private_bytes() -> int:
    """What RLIMIT_DATA counts now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0


def _lower(kind: int, value: int) -> None:
    soft, hard = resource.getrlimit(kind)
    hard = _least(hard, value)
    resource.setrlimit(kind, (_least(soft, hard), hard))


def _least(current: int, value: int) -> int:
    return value if current == resource.RLIM_INFINITY else min(current, value)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

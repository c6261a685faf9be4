"""A launcher that waits for a job with its imports done. It has no secrets, and has opened nothing of any job."""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import socket
import sys
import tempfile
from typing import Any

from ladle_worker.confinement.limits import end_first_without_memory
from ladle_worker.family import JOB_VARIABLE
from ladle_worker.preload import import_engine, import_libraries_of_tasks, why_not_to_fork
from ladle_worker.process_words import show_command, show_variable

TAKEN = b"taken"
CANNOT_WAIT = 75
"""The exit status where no launcher on this machine can wait."""
MEMORY_IS_SHORT = 76
FREE_BYTES = 1 << 30
"""A launcher waits only while so much is free besides itself."""
MOST_BYTES = 1 << 17
"""Of a command with its environment."""


def wait_for_command() -> list[str]:
    """The arguments to go on with, once the agent has sent them. From then on this process is as if started for them.

    The agent is at the other end of stdin. Where it goes away, the process ends.
    """
    end_first_without_memory()
    show_command([sys.executable, "-m", "ladle_worker.torchrun", "--wait"])
    with socket.socket(fileno=os.dup(0)) as control:
        _prepare(control)
        message, descriptors, _, _ = socket.recv_fds(control, MOST_BYTES, 2)
        if not message:
            os._exit(0)
        control.send(TAKEN)
    return _take(json.loads(message), *descriptors)


def _prepare(control: socket.socket) -> None:
    import_engine()
    import_libraries_of_tasks(lambda: bool(select.select([control], [], [], 0)[0]))
    if reason := why_not_to_fork():
        print(f"no launcher waits for jobs, because {reason}", file=sys.stderr, flush=True)
        os._exit(CANNOT_WAIT)
    from ladle_engine.storage.host_memory import free_host_bytes

    if free_host_bytes() < FREE_BYTES:
        print("no launcher waits for the next job, because memory is short", file=sys.stderr, flush=True)
        os._exit(MEMORY_IS_SHORT)
    gc.collect()
    # Otherwise each fork would copy all that the collector touches.
    gc.freeze()


def _take(asked: dict[str, Any], stdin: int, log: int) -> list[str]:
    for descriptor, number in ((stdin, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, number)
    os.close(stdin)
    os.close(log)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    show_variable(JOB_VARIABLE, asked["environment"][JOB_VARIABLE])
    show_command(asked["command"])
    # Both remember what was there before.
    tempfile.tempdir = None
    importlib.invalidate_caches()
    arguments: list[str] = asked["command"]
    return arguments[arguments.index("ladle_worker.torchrun") + 1 :]

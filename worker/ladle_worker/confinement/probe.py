"""Which protections the kernel grants here. Each is tried in a child of its own, because none can be taken back.

Call it in a process of one thread, before torch is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

from ladle_worker.confinement import landlock
from ladle_worker.confinement.apply import ephemeral_ports
from ladle_worker.confinement.limits import give_up_privileges, limit_memory
from ladle_worker.confinement.namespaces import enter, first_process
from ladle_worker.confinement.plan import FILES, MEMORY, NETWORK, PORTS, PROCESSES

GENEROUS_BYTES = 1 << 40


def probe() -> dict[str, str]:
    """Protection -> why the kernel refuses it; empty where it holds."""
    return {name: _try(attempt) for name, attempt in ATTEMPTS.items()}


def _files() -> None:
    if not landlock.version():
        raise OSError("this kernel has no Landlock, or it is switched off")
    give_up_privileges()
    landlock.restrict(landlock.Allowed(read=("/",), write=(), devices=()))


def _ports() -> None:
    if landlock.version() < landlock.HAS_PORTS:
        raise OSError(f"Landlock must have version {landlock.HAS_PORTS}, but has {landlock.version()} (Linux 6.7)")
    ephemeral_ports()


def _network() -> None:
    enter(network=True, processes=False)


def _processes() -> None:
    enter(network=False, processes=True)
    status = first_process()
    if status is None:
        os._exit(0)
    if status != 0:
        raise OSError("`/proc` of its own cannot be mounted")


def _memory() -> None:
    limit_memory(GENEROUS_BYTES)


ATTEMPTS: Mapping[str, Callable[[], None]] = {
    FILES: _files,
    NETWORK: _network,
    PORTS: _ports,
    PROCESSES: _processes,
    MEMORY: _memory,
}


def _try(attempt: Callable[[], None]) -> str:
    """What the child says before it ends."""
    end, told = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(end)
            os.write(told, _refusal(attempt).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(told)
    with os.fdopen(end, "rb") as reader:
        words = reader.read().decode(errors="replace")
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        return "the attempt failed"
    return words


def _refusal(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


if __name__ == "__main__":
    for name, refusal in probe().items():
        print(f"{name}: {refusal or 'holds'}", file=sys.stdout)

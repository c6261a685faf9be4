"""A machine divided into several nodes (`LADLE_SLOTS`), each a worker process of its own: decision 0028.

Each has its share of the GPUs, or of the cores, and of the memory, and a part of the ports. This process only starts
them, and starts again what has ended.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

from ladle_contracts.processes import end_with_parent
from ladle_worker.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

CANNOT_START = 2
"""The exit status of a worker whose settings are wrong: it cannot start another time either."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
CALM_S = 300.0
"""A worker that ran for so long ends for another reason than the one before."""
LOOK_S = 0.2


class WrongSlots(ValueError):
    """The machine cannot be divided like this."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One node of the machine."""

    number: int
    variables: Mapping[str, str]
    cores: frozenset[int]

    def start(self) -> subprocess.Popen[bytes]:
        dies_with_parent = end_with_parent(signal.SIGTERM)

        def prepare() -> None:
            os.sched_setaffinity(0, self.cores)
            if dies_with_parent is not None:
                dies_with_parent()

        return subprocess.Popen(
            [sys.executable, "-m", "ladle_worker"],
            env={**os.environ, **self.variables},
            # Ctrl-C reaches the whole group. Only this process decides what ends when.
            process_group=0,
            preexec_fn=prepare,
        )


def divide(settings: Settings, described: Mapping[str, Any]) -> list[Slot]:
    """The slots of this machine; `described` says what it has. Raises `WrongSlots`."""
    number, gpus, cores = settings.slots, gpus_of(len(described["gpus"])), sorted(os.sched_getaffinity(0))
    if settings.dispatches:
        raise WrongSlots(f"`LADLE_SLOTS` must be 1 where `LADLE_LAUNCHER` is `{settings.launcher}`, but is {number}.")
    what, most = (f"{len(gpus)} GPUs", len(gpus)) if gpus else (f"{len(cores)} cores and no GPU", len(cores))
    if number > most:
        raise WrongSlots(f"`LADLE_SLOTS` must be at most {most}, because this machine has {what}, but is {number}.")
    first, last = settings.ports
    ports = parts(range(first, last + 1), number)
    groups = parts(gpus, number)
    # Few cores may feed many GPUs.
    of_cores = parts(cores, number) if len(cores) >= number else [cores] * number
    host_bytes = min(described["host_bytes"], settings.host_bytes or described["host_bytes"]) // number
    slots = []
    for index in range(number):
        variables = {
            "LADLE_SLOTS": "1",
            "LADLE_NODE_ID": settings.node_ids[index],
            "LADLE_HOST_BYTES": str(host_bytes),
        }
        if ports[index]:
            variables["LADLE_PORTS"] = f"{ports[index][0]}-{ports[index][-1]}"
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(groups[index])
        slots.append(Slot(number=index + 1, variables=variables, cores=frozenset(of_cores[index])))
    return slots


def gpus_of(count: int) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` calls the GPUs that this process sees."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    # CUDA leaves out all from the first wrong name on.
    return named[:count] if named else [str(index) for index in range(count)]


def parts(things: Sequence[T], number: int) -> list[Sequence[T]]:
    """Neighbours together, as equal as they can be; the first ones are larger."""
    size, more = divmod(len(things), number)
    starts = [index * size + min(index, more) for index in range(number + 1)]
    return [things[start:stop] for start, stop in itertools.pairwise(starts)]


@dataclass
class Slots:
    """Looks after the workers until it is asked to stop."""

    slots: Sequence[Slot]
    start: Callable[[Slot], subprocess.Popen[bytes]] = Slot.start
    now: Callable[[], float] = time.monotonic
    _running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    _started_at: dict[int, float] = field(default_factory=dict)
    _due: dict[int, float] = field(default_factory=dict)
    _pauses: dict[int, float] = field(default_factory=dict)
    _status: int | None = None
    """How this process ends, once it stops."""

    def run(self) -> int:
        """Returns the exit status when all have ended."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._forward)
        for slot in self.slots:
            self._begin(slot)
        while self._running or self._status is None:
            self.look()
            time.sleep(LOOK_S)
        return self._status

    def look(self) -> None:
        """Takes note of what has ended, and starts again what is due."""
        for slot in self.slots:
            worker = self._running.get(slot.number)
            if worker is not None and (status := worker.poll()) is not None:
                del self._running[slot.number]
                self._note_end(slot, status)
            elif worker is None and self._status is None and self.now() >= self._due[slot.number]:
                self._begin(slot)

    def stop(self, number: signal.Signals, status: int) -> None:
        """Asks all workers to end: each gives its job back. The first status counts."""
        self._status = status if self._status is None else self._status
        for worker in self._running.values():
            if worker.poll() is None:
                worker.send_signal(number)

    def _forward(self, number: int, _: FrameType | None) -> None:
        self.stop(signal.Signals(number), 0)

    def _begin(self, slot: Slot) -> None:
        self._started_at[slot.number] = self.now()
        self._running[slot.number] = self.start(slot)
        logger.info("slot %s runs (pid %s)", slot.number, self._running[slot.number].pid)

    def _note_end(self, slot: Slot, status: int) -> None:
        if self._status is not None:
            return
        if status == CANNOT_START:
            self.stop(signal.SIGTERM, status)
            return
        was_calm = self.now() - self._started_at[slot.number] >= CALM_S
        pause_s = FIRST_PAUSE_S if was_calm else self._pauses.get(slot.number, FIRST_PAUSE_S)
        self._pauses[slot.number] = min(2 * pause_s, LONGEST_PAUSE_S)
        self._due[slot.number] = self.now() + pause_s
        logger.warning("slot %s ended with status %s and is started again in %g s", slot.number, status, pause_s)

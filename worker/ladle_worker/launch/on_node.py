"""One machine of an attempt that a dispatcher has handed over: `python -m ladle_worker.launch.on_node ATTEMPT_FOLDER`.

A scheduler starts it once on each machine of a job: as a task of Slurm, or in a pod. It waits until all machines are
there, starts the same confined torchrun as a worker does, and ends it when it gets SIGTERM, or when the dispatcher lets
the attempt go.

`LADLE_NUM_NODES` and `LADLE_NODE_RANK` say which machine this is. `LADLE_ADDRESS` is where the others reach it; without
it, it is the address from which this machine reaches `LADLE_PEERS`, which are names with commas between. `LADLE_MEET_S`
is how long it waits for the others.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from ladle_contracts import Reason
from ladle_contracts.logs import set_up_logging
from ladle_worker.broken_gpu import LOST_EACH_OTHER, words_of
from ladle_worker.confinement.choose import CannotConfine
from ladle_worker.disk_faults import disk_fault
from ladle_worker.family import WHERE_SIGNAL, adopt_orphans
from ladle_worker.gang import CannotMeet, Gang
from ladle_worker.job_folder import AttemptFolder, write_whole
from ladle_worker.launch.hand_over import HandOver
from ladle_worker.launch.launcher import Status
from ladle_worker.launch.machine import Machine, launch_here, ranks_here
from ladle_worker.launch.meeting import check_dispatcher, meet, place_here
from ladle_worker.launch.torchrun import Torchrun
from ladle_worker.memory_kills import NO_MEMORY, about_memory
from ladle_worker.relay import log_tail

logger = logging.getLogger(__name__)

POLL_S = 0.2
OTHERS_S = 5.0
SIGNALLED_S = 1.0
"""A scheduler signals all processes of a machine: ranks may have ended before this one has heard of it."""
ASKED_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""The last one is how submitit lets Slurm say that the time is nearly over."""
INTERRUPTED = 75
"""The exit status: asked to end."""


class Orders:
    """What this machine is told, by signals and by the file that the dispatcher touches."""

    def __init__(self, folder: AttemptFolder, held_s: float) -> None:
        self._folder = folder
        self._held_s = held_s
        self._seen, self._since = 0, time.monotonic()
        self.signal = ""
        self.asks_where = False

    def listen(self) -> None:
        for number in ASKED_TO_END:
            signal.signal(number, self._end)
        signal.signal(WHERE_SIGNAL, self._where)

    def go_on(self) -> bool:
        return not self.signal and self._is_held()

    def _end(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name

    def _where(self, _: int, __: FrameType | None) -> None:
        self.asks_where = True

    def _is_held(self) -> bool:
        try:
            seen = self._folder.held.stat().st_mtime_ns
        except FileNotFoundError:
            logger.warning("the dispatcher has let the attempt go")
            return False
        except OSError:
            # The disk hangs. If that lasts, the attempt is as good as let go.
            seen = self._seen
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        if time.monotonic() - self._since > self._held_s:
            logger.warning("nothing was heard of the dispatcher for %g s", self._held_s)
            return False
        return True


def run(attempt_folder: str, environment: Mapping[str, str]) -> int:
    """0 if an outcome was told, good or bad, or this machine's ranks ended well."""
    machine = Machine.of(environment)
    head = AttemptFolder(Path(attempt_folder))
    handed = HandOver.load(head)
    orders = Orders(head, handed.held_s)
    orders.listen()
    adopt_orphans()
    try:
        return _run(head, handed, machine, orders)
    except CannotMeet as error:
        _tell(head, error.reason, str(error), final=error.reason is Reason.VERSION_MISMATCH)
    except CannotConfine as error:
        _tell(head, Reason.INTERNAL_ERROR, str(error), final=True)
    except OSError as error:
        fault = disk_fault(error, "begin the job on its machine")
        _tell(head, fault.reason, fault.message, final=fault.is_final)
    return 0


def _run(head: AttemptFolder, handed: HandOver, machine: Machine, orders: Orders) -> int:
    head.of_machine(machine.node_rank).make()
    ranks, gang = ranks_here(handed.ranks_per_node), None
    place = place_here(machine, handed.ports, ranks)
    check_dispatcher(place, handed.versions)
    if machine.num_nodes > 1:
        gang = meet(head, machine, place, orders.go_on)
        if gang is None:
            return _interrupted(head, orders)
    return _launch(head, handed, machine, orders, gang, gang.ranks_per_node if gang else ranks)


def _launch(
    head: AttemptFolder, handed: HandOver, machine: Machine, orders: Orders, gang: Gang | None, ranks: int
) -> int:
    launcher = Torchrun()
    try:
        launch = launch_here(head, handed, machine, ranks, gang)
        launcher.start(launch)
        while not (status := launcher.status()).is_over and orders.go_on():
            if orders.asks_where:
                orders.asks_where = False
                launcher.logs()
            time.sleep(POLL_S)
        launcher.cancel(handed.kill_grace_s)
        return _conclude(head, launch.folder, status, orders)
    finally:
        launcher.forget()


def _conclude(head: AttemptFolder, folder: AttemptFolder, status: Status, orders: Orders) -> int:
    outcome = folder.read_outcome() or status.said
    if outcome is not None:
        _pass_on(head, outcome)
        return 0
    if not status.is_over:
        return _interrupted(head, orders)
    if status.code:
        _wait_for_signal(orders)
    if orders.signal:
        return _interrupted(head, orders)
    tail = log_tail(folder)
    if status.out_of_memory or (status.code and about_memory(tail)):
        _tell(head, Reason.OUT_OF_MEMORY, NO_MEMORY, final=True)
        return 0
    if status.code:
        _explain(head, folder, status.code, tail)
    return status.code or 0


def _explain(head: AttemptFolder, folder: AttemptFolder, code: int, tail: Sequence[str]) -> None:
    """Ranks that lost the others end too. Where none has crashed, a machine was lost, or the network between them."""
    if folder != head:
        # The dispatcher relays the first machine's log only.
        print(*tail, sep="\n")
    lost = words_of(LOST_EACH_OTHER, tail)
    if lost is None:
        write_whole(head.crashed, {"host": socket.gethostname(), "code": code})
    elif not _is_explained(head):
        message = (
            f"The machines of the job lost each other: {socket.gethostname()} did not reach the others any more. {lost}"
        )
        _tell(head, Reason.NODES_CANNOT_MEET, message, final=False)


def _is_explained(head: AttemptFolder) -> bool:
    """By another machine, which may need a moment."""
    until = time.monotonic() + OTHERS_S
    while time.monotonic() < until:
        if {head.crashed.name, head.outcome.name} & {*os.listdir(head.path)}:  # noqa: PTH208 - opening it asks the server
            return True
        time.sleep(POLL_S)
    return False


def _wait_for_signal(orders: Orders) -> None:
    until = time.monotonic() + SIGNALLED_S
    while not orders.signal and time.monotonic() < until:
        time.sleep(0.05)


def _interrupted(head: AttemptFolder, orders: Orders) -> int:
    if orders.signal:
        write_whole(head.interrupted, {"signal": orders.signal})
    return INTERRUPTED


def _tell(head: AttemptFolder, reason: Reason, message: str, *, final: bool) -> None:
    logger.error("%s", message)
    _pass_on(head, {"ok": False, "reason": reason, "message": message, "final": final})


def _pass_on(head: AttemptFolder, outcome: Mapping[str, Any]) -> None:
    """The first machine's ranks may have told already: then theirs is the word."""
    if not head.outcome.exists():
        write_whole(head.outcome, outcome)


def main() -> int:
    set_up_logging("info")
    return run(sys.argv[1], os.environ)


if __name__ == "__main__":
    sys.exit(main())

"""How the machines of an attempt find each other: through files in the attempt's folder, which all of them see."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

from ladle_contracts import Reason
from ladle_worker.gang import CannotMeet, Gang, Place, free_port, gather, versions_here
from ladle_worker.job_folder import AttemptFolder, write_whole
from ladle_worker.launch.machine import Machine

POLL_S = 0.2


def place_here(machine: Machine, ports: tuple[int, int], ranks: int) -> Place:
    """Raises `CannotMeet` if no port is free."""
    address = machine.own_address()
    name = socket.gethostname()
    return Place(
        node=name,
        host=name,
        address=address,
        port=free_port(address, ports),
        versions=versions_here(),
        ranks=ranks,
    )


def meet(folder: AttemptFolder, machine: Machine, place: Place, goes_on: Callable[[], bool]) -> Gang | None:
    """None if the attempt has ended meanwhile. Raises `CannotMeet` or OSError."""
    write_whole(folder.places / f"{machine.node_rank}.json", asdict(place))
    names = [f"{rank}.json" for rank in range(machine.num_nodes)]
    deadline = time.monotonic() + machine.meet_s
    while missing := sorted(set(names) - set(os.listdir(folder.places))):  # noqa: PTH208 - opening it asks the server
        if not goes_on():
            return None
        if time.monotonic() > deadline:
            raise CannotMeet(
                Reason.NODES_CANNOT_MEET,
                f"The {machine.num_nodes} machines of the job must see the same folder `{folder.places}`, but after "
                f"{machine.meet_s:g} s {place.host} misses {len(missing)} of them there. All must share its disk.",
            )
        time.sleep(POLL_S)
    places = [Place.of_json((folder.places / f"{rank}.json").read_text()) for rank in range(machine.num_nodes)]
    return gather(places, machine.node_rank)


def check_dispatcher(place: Place, dispatcher: Mapping[str, str]) -> None:
    """Raises `CannotMeet` where this machine has another version of Ladle than the one that hands the job over."""
    its = {name: place.versions.get(name) for name in dispatcher}
    if its != dispatcher:
        raise CannotMeet(
            Reason.VERSION_MISMATCH,
            f"A dispatcher and its machines must have the same version of Ladle, but the "
            f"dispatcher has {dispatcher.get('ladle')} and {place.host} has {its.get('ladle')}.",
        )

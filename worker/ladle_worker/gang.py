"""The nodes of one attempt: where each of them is, and how torchrun joins their ranks."""

from __future__ import annotations

import ipaddress
import json
import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import psutil

from ladle_contracts import JobSpec, Reason
from ladle_worker.inputs_difference import difference
from ladle_worker.settings import Settings

LOOPBACK = "127.0.0.1"


class CannotMeet(Exception):
    """The nodes cannot run ranks together."""

    def __init__(self, reason: Reason, message: str, node: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.node = node
        """Where something has to be set right, if that is one node."""

    @property
    def is_final(self) -> bool:
        """Versions stay what they are. An address, a port or what a network's file system shows may change soon."""
        return self.reason in (Reason.VERSION_MISMATCH, Reason.PATH_NOT_ALLOWED)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a node tells the others before its ranks start."""

    node: str
    host: str
    address: str
    port: int
    """Where rank 0 would wait, if this is the first node."""
    versions: Mapping[str, str]
    ranks: int = 1
    """How many ranks this node would run."""
    seen: Mapping[str, Any] = field(default_factory=dict)
    """What it sees of the job's inputs: `inputs_seen`."""
    refused: str = ""
    """Why it does not see them at all."""
    vetting: Mapping[str, Any] = field(default_factory=dict)
    """What it found when it looked at itself: a `Vetting`, if it has."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Place:
        """A node of another version may say less, or more."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})


@dataclass(frozen=True, kw_only=True)
class Gang:
    """This node among the nodes of its attempt."""

    num_nodes: int
    node_rank: int
    head: Place
    address: str
    """This node's own."""
    ranks_per_node: int = 1
    """torchrun wants the same number on each."""

    @property
    def torchrun_arguments(self) -> tuple[str, ...]:
        # An address and a port that are given: c10d's own rendezvous guesses host names, and hangs in containers.
        return (
            *(f"--nnodes={self.num_nodes}", f"--node-rank={self.node_rank}"),
            *(f"--master-addr={self.head.address}", f"--master-port={self.head.port}"),
        )

    @property
    def variables(self) -> dict[str, str]:
        """For gloo and NCCL: the interface that leads to the other nodes. Otherwise they take any."""
        interface = interface_of(self.address)
        # NCCL takes a name for the beginning of one, unless there is a sign before it.
        return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"} if interface else {}


def place_of(settings: Settings, ranks: int = 1, seen: Mapping[str, Any] | None = None, refused: str = "") -> Place:
    """This node's. Raises `CannotMeet` if no port is free."""
    address = own_address(settings)
    return Place(
        node=settings.node_id,
        host=socket.gethostname(),
        address=address,
        port=_own_port(address, settings),
        versions=versions_here(),
        ranks=ranks,
        seen=seen or {},
        refused=refused,
    )


def versions_here() -> dict[str, str]:
    return {name: version(name) for name in ("ladle", "torch")}


def gather(places: Sequence[Place], node_rank: int) -> Gang:
    """Raises `CannotMeet` where they do not fit together."""
    head = places[0]
    _check_versions(places)
    far = [place for place in places if place.host != head.host]
    if far and ipaddress.ip_address(head.address).is_loopback:
        raise CannotMeet(
            Reason.NODES_CANNOT_MEET,
            f"The nodes of a job must reach each other, but node `{head.node}` has only the address {head.address}, "
            f"which node `{far[0].node}` on host `{far[0].host}` cannot reach. Set `LADLE_ADDRESS` on `{head.node}`.",
            head.node,
        )
    return Gang(
        num_nodes=len(places),
        node_rank=node_rank,
        head=head,
        address=places[node_rank].address,
        ranks_per_node=min(place.ranks for place in places),
    )


def _check_versions(places: Sequence[Place]) -> None:
    head = places[0]
    for place in places[1:]:
        for name, its in place.versions.items():
            if its != head.versions.get(name):
                raise CannotMeet(
                    Reason.VERSION_MISMATCH,
                    f"The nodes of a job must have the same version of {name}, but node `{head.node}` has "
                    f"{head.versions.get(name)} and node `{place.node}` has {its}.",
                )


def check_inputs(places: Sequence[Place], spec: JobSpec) -> None:
    """Raises `CannotMeet` where the nodes do not see the same files."""
    refused = [place for place in places if place.refused]
    if len(refused) == len(places):
        raise CannotMeet(Reason.PATH_NOT_ALLOWED, refused[0].refused)
    if refused:
        seeing = next(place for place in places if not place.refused)
        raise CannotMeet(
            Reason.INPUTS_DIFFER,
            f"The nodes of a job must see the same files, but node `{refused[0].node}` does not see those of node "
            f"`{seeing.node}`. It says: {refused[0].refused} Is the folder mounted there, and in its `LADLE_ROOTS`?",
            refused[0].node,
        )
    if different := difference({place.node: place.seen for place in places}, spec):
        raise CannotMeet(Reason.INPUTS_DIFFER, different)


def own_address(settings: Settings) -> str:
    """As a number. Raises `CannotMeet` where the name in `LADLE_ADDRESS` is not known."""
    if settings.address is None:
        return _towards(settings.redis_url.get_secret_value())
    try:
        found = socket.getaddrinfo(settings.address, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise CannotMeet(
            Reason.NODES_CANNOT_MEET,
            f"`LADLE_ADDRESS` of node `{settings.node_id}` must be an address or a name that is known there, but is "
            f"`{settings.address}`: {error}.",
            settings.node_id,
        ) from error
    return str(found[0][4][0])


def _towards(redis_url: str) -> str:
    """The address of this machine from which it reaches Redis."""
    url = urlsplit(redis_url)
    if url.scheme == "unix" or not url.hostname:
        return LOOPBACK
    # If Redis cannot be reached at the moment: whoever claims a job has reached it a moment ago.
    return address_towards(url.hostname, url.port or 6379)


def address_towards(host: str, port: int = 6379) -> str:
    """The address of this machine from which it reaches another one. That of the loopback device if none does."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            # Nothing is sent.
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return LOOPBACK


def free_port(address: str, ports: tuple[int, int]) -> int:
    """One of the range that nobody has. Raises `CannotMeet`."""
    first, last = ports
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # In any order, so that two jobs that start at once rarely choose the same.
    for port in random.sample(range(first, last + 1), last - first + 1):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise CannotMeet(
        Reason.NODES_CANNOT_MEET,
        f"A port of {first}-{last} must be free at {address}, but none is. `LADLE_PORTS` sets the range.",
    )


def _own_port(address: str, settings: Settings) -> int:
    try:
        return free_port(address, settings.ports)
    except CannotMeet as error:
        raise CannotMeet(error.reason, str(error), settings.node_id) from None


def interface_of(address: str) -> str | None:
    """The network interface with this address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    return None

"""Machines on one switch, as network namespaces: each has `eth0`, whose rate can be limited in both directions.

Everything is made by iproute2, lies in namespaces of our own and is removed with them. Needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sources import find_package

INTERFACE = "eth0"
SMALLEST_BURST_BYTES = 16 << 10
QUEUE_MS = 50


class Unavailable(Exception):
    """Namespaces cannot be made here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What left the interfaces, headers and acknowledgements included."""

    bytes: int
    packets: int

    def __sub__(self, earlier: Sent) -> Sent:
        return Sent(bytes=self.bytes - earlier.bytes, packets=self.packets - earlier.packets)


@dataclass(frozen=True, kw_only=True)
class Network:
    """`machines` are names of namespaces; machine i has the address `address(i)`."""

    machines: tuple[str, ...]
    switch: str

    def address(self, machine: int) -> str:
        return f"10.177.0.{machine + 1}"

    def command_in(self, machine: int) -> tuple[str, ...]:
        """What to put before a command so that it runs on a machine."""
        return (tool("ip"), "netns", "exec", self.machines[machine])

    def limit(self, bits_per_s: float | None) -> None:
        """How fast each machine may send, and may receive; None for no limit."""
        for index, machine in enumerate(self.machines):
            for namespace, device in ((machine, INTERFACE), (self.switch, f"port{index}")):
                if bits_per_s is None:
                    # A new interface has no queue to delete.
                    _run(tool("tc"), "-n", namespace, "qdisc", "del", "dev", device, "root", check=False)
                    continue
                # A millisecond's worth, so that what is measured is the rate and not the bucket.
                burst = max(SMALLEST_BURST_BYTES, round(bits_per_s / 8 / 1000))
                _run(
                    *(tool("tc"), "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf"),
                    *("rate", f"{bits_per_s:.0f}bit", "burst", f"{burst}b", "latency", f"{QUEUE_MS}ms"),
                )

    def sent(self) -> Sent:
        """By all machines together since they were made."""
        counters = [
            json.loads(_run(tool("ip"), "-n", machine, "-s", "-j", "link", "show", INTERFACE))[0]["stats64"]["tx"]
            for machine in self.machines
        ]
        return Sent(bytes=sum(tx["bytes"] for tx in counters), packets=sum(tx["packets"] for tx in counters))


@contextmanager
def network(machines: int) -> Iterator[Network]:
    """Removed at the end, whatever happens. Raises `Unavailable`."""
    if os.geteuid() != 0:
        raise Unavailable("network namespaces need root")
    prefix = f"ladle-wire-{os.getpid()}"
    made = Network(machines=tuple(f"{prefix}-{index}" for index in range(machines)), switch=f"{prefix}-switch")
    ip = tool("ip")
    try:
        try:
            for namespace in (made.switch, *made.machines):
                _run(ip, "netns", "add", namespace)
            # No link-local addresses anywhere: the kernel's own IPv6 greetings would be counted.
            _run(ip, "-n", made.switch, "link", "add", "switch", "type", "bridge")
            _run(ip, "-n", made.switch, "link", "set", "switch", "addrgenmode", "none", "up")
            for index, machine in enumerate(made.machines):
                port = f"port{index}"
                _run(
                    *(ip, "link", "add", INTERFACE, "netns", machine, "type", "veth"),
                    *("peer", "name", port, "netns", made.switch),
                )
                _run(ip, "-n", machine, "addr", "add", f"{made.address(index)}/24", "dev", INTERFACE)
                _run(ip, "-n", machine, "link", "set", "lo", "up")
                _run(ip, "-n", machine, "link", "set", INTERFACE, "addrgenmode", "none", "up")
                _run(ip, "-n", made.switch, "link", "set", port, "master", "switch", "addrgenmode", "none", "up")
            made.limit(1e9)  # whether this kernel has the limiter
            made.limit(None)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"`{' '.join(map(str, error.cmd))}` says: {error.stderr.strip()}") from error
        yield made
    finally:
        for namespace in (*made.machines, made.switch):
            _run(ip, "netns", "del", namespace, check=False)


def tool(name: str) -> str:
    """The path of iproute2's `ip` or `tc`, unpacked into the cache where it is not installed. Raises `Unavailable`."""
    system = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/bin", "/bin"))
    if found := shutil.which(name, path=system):
        return found
    try:
        unpacked = find_package("iproute2", Path("/usr/lib/tc")).parents[2]
    except SystemExit as error:
        raise Unavailable(str(error)) from error
    folders = os.pathsep.join(str(unpacked / folder) for folder in ("bin", "sbin", "usr/bin", "usr/sbin"))
    if not (found := shutil.which(name, path=folders)):
        raise Unavailable(f"there is no `{name}`; try `apt-get install iproute2`")
    return found


def _run(*command: str, check: bool = True) -> str:
    return subprocess.run(command, check=check, capture_output=True, text=True).stdout

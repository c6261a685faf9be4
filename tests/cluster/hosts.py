"""Hosts of a cluster: network namespaces with an address each, joined by a switch. Needs root and iproute2.

They share the disk. Their processes have a host name of their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

NETWORK = "10.77.0"
BRIDGE = "br0"


def why_not() -> str:
    """Why there can be no such hosts here. Empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]
    if missing:
        return f"{missing[0]} is not installed (iproute2, util-linux)"
    try:
        with hosts("first", "second") as made:
            subprocess.run(made[0].command(["true"]), check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        return f"this machine refuses network namespaces: {error.stderr.strip()}"
    return ""


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    switch: str
    """The namespace that the other end of its cable is in."""

    @property
    def namespace(self) -> str:
        return f"{self.switch}-{self.name}"

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The same command, run on this host."""
        return [
            *("nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--uts"),
            *("sh", "-c", 'hostname "$0" && exec "$@"', self.name, *arguments),
        ]

    def cut(self) -> None:
        """As if the cable were pulled at the switch: connections hang, and nobody is told."""
        _ip("-n", self.switch, "link", "set", self.name, "down")

    def heal(self) -> None:
        _ip("-n", self.switch, "link", "set", self.name, "up")


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    switch = f"ladle{os.getpid()}"
    made = [Host(name, f"{NETWORK}.{number}", switch) for number, name in enumerate(names, start=1)]
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", BRIDGE, "type", "bridge")
        _ip("-n", switch, "link", "set", BRIDGE, "up")
        for host in made:
            _connect(host)
        yield made
    finally:
        for namespace in [*(host.namespace for host in made), switch]:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", namespace)


def _connect(host: Host) -> None:
    _ip("netns", "add", host.namespace)
    _ip("-n", host.switch, "link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
    _ip("-n", host.switch, "link", "set", host.name, "master", BRIDGE)
    _ip("-n", host.switch, "link", "set", host.name, "up")
    _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", host.namespace, "link", "set", device, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)

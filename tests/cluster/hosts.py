"""Hosts of a cluster: each a network namespace with an address, joined by a switch. Needs root and iproute2.

The processes of a host have its name and a `/srv` of their own. There is what is mounted for the host, and `/srv/tmp`,
which is nobody else's. The rest of the disk is the same for all.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

NETWORK = "10.77.0"
BRIDGE = "br0"
MOUNTS = Path("/srv")
"""Debian keeps it empty."""
BURST = "8kb"
QUEUE = "5s"
"""How long a packet waits in front of a slow link before it is dropped."""
NOBODY = "02:00:00:00:00:99"
"""A hardware address that no host has."""
CLONE_NEWNET = 0x40000000

START = """
hostname "$0"
mount -t tmpfs ladle-host /srv
mkdir /srv/tmp
while [ "$1" != -- ]; do
  mkdir "/srv/$1"
  mount --bind -o "$2" "$3" "/srv/$1"
  shift 3
done
shift
exec "$@"
"""


def why_not() -> str:
    """Why there can be no such hosts here. Empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "tc", "nsenter", "unshare") if shutil.which(name) is None]
    if missing:
        return f"{missing[0]} is not installed (iproute2, util-linux)"
    try:
        with hosts("first", "second") as made:
            subprocess.run(made["first"].command(["true"]), check=True, capture_output=True, text=True)
            made["first"].slow("1mbit")
    except subprocess.CalledProcessError as error:
        return f"this machine refuses network namespaces: {error.stderr.strip()}"
    return ""


@dataclass(frozen=True)
class Mount:
    """A folder of the disk that a host sees below `/srv`."""

    source: Path
    read_only: bool = False


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    switch: str
    """The namespace that the other end of its cable is in."""

    @property
    def namespace(self) -> str:
        return f"{self.switch}-{self.name}"

    def command(self, arguments: Sequence[str], mounts: Mapping[str, Mount] | None = None) -> list[str]:
        """The same command, run on this host. `mounts` are the folders that it sees, by their names in `/srv`."""
        folders = [
            text
            for name, mount in (mounts or {}).items()
            for text in (name, "ro" if mount.read_only else "rw", str(mount.source))
        ]
        return [
            *("nsenter", f"--net=/run/netns/{self.namespace}"),
            *("unshare", "--uts", "--mount", "--propagation", "private"),
            *("sh", "-ec", START, self.name, *folders, "--", *arguments),
        ]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What this thread connects to, it connects to from this host."""
        own, there = (
            os.open(path, os.O_RDONLY) for path in ("/proc/thread-self/ns/net", f"/run/netns/{self.namespace}")
        )
        try:
            _enter(there)
            yield
        finally:
            _enter(own)
            os.close(own)
            os.close(there)

    def cut(self) -> None:
        """As if the cable were pulled at the switch: connections hang, and nobody is told."""
        _ip("-n", self.switch, "link", "set", "dev", self.name, "down")

    def lose(self, other: Host) -> None:
        """Nothing that this host sends to the other one arrives there. Others hear both."""
        _ip(
            "-n", self.namespace, "neigh", "replace", other.address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent"
        )

    def slow(self, rate: str) -> None:
        """The cable lets only so much through, such as `256kbit` in a second, each way."""
        for namespace, device in ((self.switch, self.name), (self.namespace, "eth0")):
            limit = ("tbf", "rate", rate, "burst", BURST, "latency", QUEUE)
            _run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *limit)

    def heal(self) -> None:
        """Undoes all of it."""
        _ip("-n", self.switch, "link", "set", "dev", self.name, "up")
        _ip("-n", self.namespace, "neigh", "flush", "dev", "eth0", "nud", "permanent")
        for namespace, device in ((self.switch, self.name), (self.namespace, "eth0")):
            # It fails where nothing was slowed.
            with suppress(subprocess.CalledProcessError):
                _run("tc", "-n", namespace, "qdisc", "del", "dev", device, "root")


@contextmanager
def hosts(*names: str) -> Iterator[dict[str, Host]]:
    """By name. Their addresses are 10.77.0.1 and so on, in this order."""
    _delete_left_over()
    switch = f"ladle{os.getpid()}"
    made = {name: Host(name, f"{NETWORK}.{number}", switch) for number, name in enumerate(names, start=1)}
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", BRIDGE, "type", "bridge")
        _ip("-n", switch, "link", "set", BRIDGE, "up")
        for host in made.values():
            _connect(host)
        yield made
    finally:
        for namespace in [*(host.namespace for host in made.values()), switch]:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", namespace)


def _delete_left_over() -> None:
    """A run that was killed deletes nothing itself. Namespaces are named after the process that made them."""
    for path in Path("/run/netns").glob("ladle*"):
        number = re.fullmatch(r"ladle(\d+)(-.*)?", path.name)
        if number and not Path(f"/proc/{number[1]}").exists():
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", path.name)


def _connect(host: Host) -> None:
    _ip("netns", "add", host.namespace)
    _ip(
        "-n",
        host.switch,
        "link",
        "add",
        "name",
        host.name,
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        host.namespace,
    )
    _ip("-n", host.switch, "link", "set", "dev", host.name, "master", BRIDGE)
    _ip("-n", host.switch, "link", "set", "dev", host.name, "up")
    _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", host.namespace, "link", "set", device, "up")


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)

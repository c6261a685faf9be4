"""Hosts for workers: containers with an address and a host name of their own, on a network with the head.

`docker-compose.worker.yml` gives a worker the network of its machine. Here it gets that of such a container. To Redis'
published port they are other machines: no network of the engine joins them.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine import Engine

HEAD = "10.88.0.1"
LAN = "lan"


def make_network(engine: Engine) -> None:
    """The head, which is the engine's own network, gets an address on it."""
    engine.within("ip", "link", "add", LAN, "type", "bridge")
    engine.within("ip", "address", "add", f"{HEAD}/24", "dev", LAN)
    engine.within("ip", "link", "set", LAN, "up")
    # A switch forwards everything. Where the kernel shows its frames to iptables, Docker's rules would drop them.
    engine.within("iptables", "--insert", "FORWARD", "--in-interface", LAN, "--out-interface", LAN, "--jump", "ACCEPT")


def add_hosts(engine: Engine, image: str, names: Sequence[str]) -> dict[str, str]:
    """The address of each."""
    addresses = {name: f"10.88.0.{number}" for number, name in enumerate(names, start=2)}
    for name, address in addresses.items():
        known = [part for other, its in addresses.items() for part in ("--add-host", f"{other}:{its}")]
        # Nobody answers names at that address, which programs are told at once.
        options = ("--detach", "--init", "--name", name, "--hostname", name, "--network", "none", "--dns", HEAD, *known)
        engine.ask("run", *options, image, "sleep", "infinity")
        pid = engine.pid_of(name)
        cable = ("type", "veth", "peer", "name", "eth0", "netns", str(pid))
        engine.within("ip", "link", "add", name, *cable)
        engine.within("ip", "link", "set", name, "master", LAN, "up")
        engine.within("ip", "address", "add", f"{address}/24", "dev", "eth0", network_of=pid)
        engine.within("ip", "link", "set", "eth0", "up", network_of=pid)
    return addresses


def remove_hosts(engine: Engine, names: Sequence[str]) -> None:
    engine.ask("rm", "--force", *names)

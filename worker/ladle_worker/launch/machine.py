"""This machine's part of an attempt that a dispatcher has handed over."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import psutil

from ladle_worker.confinement.choose import among_nodes, choose
from ladle_worker.confinement.plan import MEMORY, Plan, devices
from ladle_worker.confinement.probe import probe
from ladle_worker.gang import Gang, address_towards
from ladle_worker.job_folder import AttemptFolder, write_whole
from ladle_worker.launch.hand_over import HandOver
from ladle_worker.launch.launcher import Launch

NUM_NODES, NODE_RANK, ADDRESS, PEERS = "LADLE_NUM_NODES", "LADLE_NODE_RANK", "LADLE_ADDRESS", "LADLE_PEERS"
MEET, MEET_S = "LADLE_MEET_S", 180.0
"""How long a machine waits for the others. Slurm starts all machines of a job at once, but a shared disk may take a
minute to show what another has written."""
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
COUNT_GPUS = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Which one of the attempt's machines this is."""

    num_nodes: int = 1
    node_rank: int = 0
    address: str = ""
    """Where the others reach it."""
    peers: tuple[str, ...] = ()
    """Names or addresses of machines, if `address` is not known: this one's address is that which leads to them."""
    meet_s: float = MEET_S

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Raises ValueError where a number is none."""
        return cls(
            num_nodes=int(environment.get(NUM_NODES, "1")),
            node_rank=int(environment.get(NODE_RANK, "0")),
            address=environment.get(ADDRESS, ""),
            meet_s=float(environment.get(MEET, MEET_S)),
            peers=tuple(filter(None, environment.get(PEERS, "").split(","))),
        )

    def own_address(self) -> str:
        """As a number: of the interface that the operator names, or the one that leads to the others."""
        name = next((os.environ[name] for name in INTERFACES if os.environ.get(name)), "")
        for each in psutil.net_if_addrs().get(name, ()):
            if each.family == socket.AF_INET:
                return each.address
        towards = [address_towards(peer) for peer in ([self.address] if self.address else self.peers)]
        return next((found for found in towards if not found.startswith("127.")), "127.0.0.1")


def launch_here(head: AttemptFolder, handed: HandOver, machine: Machine, ranks: int, gang: Gang | None) -> Launch:
    """Of this machine. Its files are in `head.of_machine`, with a copy of the job. Raises OSError."""
    folder = head.of_machine(machine.node_rank)
    job = json.loads(head.job.read_text())
    plan = plan_here(handed, gang)
    if folder != head:
        # Only the first machine writes the result and the state.
        heads = {str(head.path), job["staging"], job["state"]}
        plan = replace(plan, write=(str(folder.path), *(path for path in plan.write if path not in heads)))
        job["staging"] = str(folder.path / "output")
    write_whole(folder.job, {**job, "limit_memory": MEMORY in plan.protections})
    return Launch(
        folder=folder,
        job_id=handed.job_id,
        attempt=handed.attempt,
        mark=f"{handed.job_id}.{machine.node_rank}@{socket.gethostname()}",
        num_nodes=1,
        ranks_per_node=ranks,
        module=handed.module,
        plan=plan,
        gang=gang,
    )


def plan_here(handed: HandOver, gang: Gang | None) -> Plan:
    """The dispatcher's plan with what this machine's kernel grants.

    Call it in a process of one thread. Raises `CannotConfine`.
    """
    chosen = choose(handed.confine, probe(), gpus=has_gpus())
    return replace(
        Plan.of(handed.plan),
        agent=os.getpid(),
        protections=among_nodes(chosen) if gang else chosen,
        devices=devices(),
        ports=(gang.head.port,) if gang else (),
    )


def has_gpus() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


def ranks_here(asked: int | None) -> int:
    """One per GPU that the scheduler has given, or one, where the job does not say."""
    if asked is not None:
        return asked
    if not has_gpus():
        return 1
    # This process forks into namespaces later, so it must not have torch's threads.
    told = subprocess.run([sys.executable, "-c", COUNT_GPUS], capture_output=True, text=True, check=False)
    return max(1, int(told.stdout or 0)) if told.returncode == 0 else 1

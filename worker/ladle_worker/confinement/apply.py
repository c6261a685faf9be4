"""Confines this process, and with it all that it starts, in the one order in which the kernel accepts it."""

from __future__ import annotations

from pathlib import Path

from ladle_worker.confinement import landlock
from ladle_worker.confinement.limits import give_up_privileges, limit_resources
from ladle_worker.confinement.namespaces import enter, first_process
from ladle_worker.confinement.plan import FILES, NETWORK, PORTS, PROCESSES, Plan
from ladle_worker.family import die_with_parent

EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def confine(plan: Plan) -> int | None:
    """None in the process that goes on. In its parent, where there is one, the exit status of that process.

    Raises OSError where the kernel refuses what it granted when the worker started: then the attempt must not run.
    """
    limit_resources([Path(each) for each in plan.inputs], Path(plan.outputs))
    enter(network=NETWORK in plan.protections, processes=PROCESSES in plan.protections, hidden=plan.hidden)
    # A new user namespace cancels what was set before.
    die_with_parent(plan.agent)
    if PROCESSES in plan.protections:
        status = first_process()
        if status is not None:
            return status
    give_up_privileges()
    if FILES in plan.protections or PORTS in plan.protections:
        landlock.restrict(allowed(plan))
    return None


def allowed(plan: Plan) -> landlock.Allowed:
    return landlock.Allowed(
        read=plan.read if FILES in plan.protections else ("/",),
        write=plan.write if FILES in plan.protections else ("/",),
        devices=plan.devices if FILES in plan.protections else ("/",),
        ports=(*ephemeral_ports(), *plan.ports) if PORTS in plan.protections else None,
    )


def ephemeral_ports() -> range:
    """The ports that the kernel gives to those who ask for any: ranks find each other there, services are elsewhere."""
    first, last = EPHEMERAL_PORTS.read_text().split()
    return range(int(first), int(last) + 1)

"""What can go wrong, and what a job may then end as."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from redis.exceptions import RedisError

from tests.chaos.world import LEASE_S, World, fill, make_read_only

SUCCEEDED = frozenset({"succeeded"})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`act` begins it; `World.heal` ends it after `lasts_s`."""

    name: str
    act: Callable[[World, Incident], None]
    lasts_s: tuple[float, float] = (0.0, 0.5)
    failures: int = 0
    """How many failed attempts it may cost."""
    endings: frozenset[str] = SUCCEEDED
    """Which state or reason the job may end with; the others only by another fault."""
    changes_inputs: bool = False
    needs_disk: bool = False


@dataclass(frozen=True, kw_only=True)
class Incident:
    """One fault as it happens to one job."""

    job_id: str
    data: Path
    rng: random.Random = field(repr=False)


def send(target: str, number: signal.Signals) -> Callable[[World, Incident], None]:
    """The signal to one process of a kind."""

    def act(world: World, incident: Incident) -> None:
        found = sorted(world.processes(target, incident.job_id), key=lambda process: process.pid)
        if not found:
            return
        process = incident.rng.choice(found)
        if number == signal.SIGSTOP:
            world.stopped.append(process)
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
            if number == signal.SIGKILL and target in ("worker", "service", "redis"):
                process.wait(30)

    return act


def freeze_everything(world: World, incident: Incident) -> None:
    """As a laptop that sleeps does."""
    for target in ("service", "worker", "agent", "torchrun", "rank"):
        for process in world.processes(target, incident.job_id):
            world.stopped.append(process)
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)


def refuse(*command: object) -> Callable[[World, Incident], None]:
    """A setting with which Redis refuses writes."""

    def act(world: World, incident: Incident) -> None:
        with world.redis() as client:
            client.execute_command(*command)

    return act


def cut_links(world: World, incident: Incident) -> None:
    """Every connection to Redis, again and again for two seconds."""
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        with suppress(RedisError), world.redis() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(0.05)


def change(how: Callable[[Path, Path], None]) -> Callable[[World, Incident], None]:
    """One of the job's checkpoints, with another one at hand."""

    def act(world: World, incident: Incident) -> None:
        paths = sorted((incident.data / "checkpoints").glob("*.safetensors"))
        changed, other = incident.rng.sample(paths, 2) if len(paths) > 1 else (paths[0], paths[0])
        how(changed, other)

    return act


def replace(path: Path, other: Path) -> None:
    temporary = path.with_suffix(".new")
    shutil.copy(other, temporary)
    temporary.replace(path)


def truncate(path: Path, other: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def lead_out(path: Path, other: Path) -> None:
    """The same bytes, but outside of the roots."""
    outside = path.parents[3] / f"outside-{path.parent.parent.name}-{path.name}"
    shutil.copy(other, outside)
    path.unlink()
    path.symlink_to(outside)


def cancel(world: World, incident: Incident) -> None:
    with world.client() as client:
        client.job(incident.job_id).cancel()


OUTAGE_S = (0.0, 1.5 * LEASE_S)
CHANGED = SUCCEEDED | {"inputs-changed", "unreadable-input", "corrupt-checkpoint", "path-not-allowed"}
# Two ranks may see the folder before and after the change.
CHANGED |= {"identical-checkpoints", "no-checkpoints", "too-few-checkpoints", "mismatched-checkpoints"}
DISK = SUCCEEDED | {"disk-full", "results-unwritable"}
FAULTS = (
    Fault(name="kill worker", act=send("worker", signal.SIGKILL), failures=1),
    Fault(name="kill agent", act=send("agent", signal.SIGKILL), failures=1),
    Fault(name="kill torchrun", act=send("torchrun", signal.SIGKILL), failures=1),
    Fault(name="kill rank", act=send("rank", signal.SIGKILL), failures=1),
    Fault(name="kill service", act=send("service", signal.SIGKILL)),
    Fault(name="kill redis", act=send("redis", signal.SIGKILL)),
    Fault(name="terminate worker", act=send("worker", signal.SIGTERM), lasts_s=(3, 6), failures=1),
    Fault(name="terminate torchrun", act=send("torchrun", signal.SIGTERM), failures=1),
    Fault(name="terminate rank", act=send("rank", signal.SIGTERM), failures=1),
    Fault(name="terminate service", act=send("service", signal.SIGTERM), lasts_s=(0, 8)),
    Fault(name="stop worker", act=send("worker", signal.SIGSTOP), lasts_s=(0, 4)),
    Fault(name="stop agent", act=send("agent", signal.SIGSTOP), lasts_s=OUTAGE_S, failures=1),
    Fault(name="stop torchrun", act=send("torchrun", signal.SIGSTOP), lasts_s=(0, 4)),
    Fault(name="stop rank", act=send("rank", signal.SIGSTOP), lasts_s=(0, 4)),
    Fault(name="stop service", act=send("service", signal.SIGSTOP), lasts_s=OUTAGE_S),
    Fault(name="stop redis", act=send("redis", signal.SIGSTOP), lasts_s=OUTAGE_S, failures=1),
    Fault(name="freeze everything", act=freeze_everything, lasts_s=(LEASE_S, 1.5 * LEASE_S)),
    Fault(name="cut links", act=cut_links),
    Fault(name="redis out of memory", act=refuse("CONFIG", "SET", "maxmemory", 1), lasts_s=OUTAGE_S, failures=1),
    Fault(name="redis read-only", act=refuse("REPLICAOF", "127.0.0.1", 1), lasts_s=OUTAGE_S, failures=1),
    Fault(
        name="redis without replicas",
        act=refuse("CONFIG", "SET", "min-replicas-to-write", 1),
        lasts_s=OUTAGE_S,
        failures=1,
    ),
    Fault(
        name="disk full", act=lambda world, _: fill(world), lasts_s=(1, 5), endings=DISK, failures=1, needs_disk=True
    ),
    Fault(
        name="disk read-only",
        act=lambda world, _: make_read_only(world, True),
        lasts_s=(1, 5),
        endings=DISK,
        failures=1,
        needs_disk=True,
    ),
    Fault(name="replace checkpoint", act=change(replace), endings=CHANGED, changes_inputs=True),
    Fault(name="truncate checkpoint", act=change(truncate), endings=CHANGED, changes_inputs=True),
    Fault(name="delete checkpoint", act=change(lambda path, _: path.unlink()), endings=CHANGED, changes_inputs=True),
    Fault(name="lead checkpoint out", act=change(lead_out), endings=CHANGED, changes_inputs=True),
    # Known to be the same bytes only once it was read whole.
    Fault(
        name="touch checkpoint",
        act=change(lambda path, _: path.touch()),
        endings=SUCCEEDED | {"inputs-changed"},
    ),
    Fault(name="cancel", act=cancel, endings=SUCCEEDED | {"cancelled"}),
)
MOST_FAILURES = 2
"""With three the job fails: `max_failures`."""

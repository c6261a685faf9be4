"""What `ladle doctor` asks a service: whether it answers, whether its nodes are well, and why jobs wait."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from ladle._client import Client
from ladle._errors import LadleError, ServiceError, Unauthorized
from ladle.cli.findings import Finding
from ladle.cli.render import duration
from ladle.cli.wording import in_flags
from ladle_contracts import ErrorCode, JobRecord, JobState, NodeRecord
from ladle_report.numbers import ago

CLOCK_S = 60.0
"""Clocks may differ by so much before anybody is told."""
LONG_S = 600.0
"""A job that has waited longer than this is a finding."""
MOST_QUEUED = 200
MOST_NAMED = 5

ANSWERS = "Look at the service's log. On the machine where it runs, `curl .../readyz` says whether its Redis works."


def examine_service(client: Client, roots: Sequence[Path | str] = (), *, needed: bool = True) -> Iterator[Finding]:
    """One thing after the other; what cannot be asked ends it. `roots` are folders that the workers should see, and
    `needed` says whether jobs are to run there."""
    try:
        told = client.version().version
        yield Finding(name="service", ok=True, detail=f"version {told} answers at {client.address}", needed=needed)
        yield _same_version(told)
        nodes = client.nodes()
        yield Finding(name="token", ok=True, detail="accepted", needed=needed)
        yield from examine_nodes(nodes, told, needed=needed)
        if any(node.alive for node in nodes):
            for root in roots:
                yield _seen(client, root)
        yield _queue(list(islice(client.jobs(state=JobState.QUEUED), MOST_QUEUED)), nodes)
    except Unauthorized as error:
        yield Finding(
            name="token",
            ok=False,
            detail=in_flags(str(error)),
            fix="Pass another one with --token or LADLE_TOKEN. Where the service runs, `ladle token list` shows which "
            "are valid, and `ladle token create NAME` makes one.",
            needed=needed,
        )
    except LadleError as error:
        fix = ANSWERS if isinstance(error, ServiceError) else "Start one with `ladle up`, or name one with --url."
        yield Finding(name="service", ok=False, detail=in_flags(str(error)), fix=fix, needed=needed)


def examine_nodes(nodes: Sequence[NodeRecord], service_version: str, *, needed: bool = True) -> Iterator[Finding]:
    """How many take jobs, and what is odd about any of them."""
    takers = [node for node in nodes if node.state in ("ready", "busy")]
    counted = Counter(node.state for node in nodes)
    detail = ", ".join(f"{count} {state}" for state, count in sorted(counted.items())) or "none has registered"
    yield Finding(
        name="nodes",
        ok=bool(takers),
        detail=detail,
        fix="No node takes jobs. Start a worker with the same Redis as the service: `python -m ladle_worker`, or "
        "`ladle up` on one machine.",
        needed=needed,
    )
    for node in nodes:
        yield from _node(node)
    alive = [node for node in nodes if node.alive]
    yield from _clocks(alive)
    yield from _alike("versions of Ladle", {node.id: node.version for node in alive} | {"the service": service_version})
    yield from _alike("versions of torch", {node.id: node.torch_version for node in alive})
    # A dispatcher runs nothing itself.
    workers = [node for node in alive if not node.dispatches]
    yield from _alike(
        "GPUs", {node.id: _gpus(node) for node in workers},
        fix="Of several nodes, the one with the fewest GPUs decides how many ranks each runs. `--ranks-per-node` says "
        "another number. Is `nvidia-smi` well on the node that has fewer?",
    )  # fmt: skip


def _node(node: NodeRecord) -> Iterator[Finding]:
    name = f"node {node.id}"
    if not node.alive:
        yield Finding(
            name=name,
            ok=False,
            detail=f"was last seen {ago(node.heartbeat_at)} on host {node.host}",
            fix="Is the machine on, and does its worker run? Its log says why it ended. A node that stays away is "
            "forgotten by itself.",
            needed=False,
        )
        return
    if node.cordoned is not None:
        yield Finding(
            name=name,
            ok=False,
            detail=f"takes no jobs: {node.cordoned}",
            fix=f"When the reason is gone: `ladle node uncordon {shlex.quote(node.id)}`.",
            needed=False,
        )
    if node.vetting is not None and node.vetting.problem is not None:
        yield Finding(
            name=name,
            ok=False,
            detail=f"did not pass its own check {ago(node.vetting.at)}: {node.vetting.problem}",
            fix="Fix what it names, and restart its worker, which checks again.",
            needed=False,
        )
    elif node.failures_in_row and node.cordoned is None:
        last = f": {node.last_failure}" if node.last_failure else ""
        yield Finding(
            name=name,
            ok=False,
            detail=f"failed {node.failures_in_row} x in a row{last}",
            fix="Three failures in a row take it out of service. `ladle logs JOB` of a job that ran there says more.",
            needed=False,
        )


def _clocks(alive: Sequence[NodeRecord]) -> Iterator[Finding]:
    """Everything that counts is timed by Redis, but ages that are shown, and the ends of tokens, are not."""
    if not alive:
        return
    redis_now = max(node.heartbeat_at for node in alive)
    here = (datetime.now(UTC) - redis_now).total_seconds()
    off = {node.id: _clock_off(node, redis_now) for node in alive}
    late = [f"{node} by at least {duration(seconds)}" for node, seconds in off.items() if seconds > CLOCK_S]
    if abs(here) > CLOCK_S:
        late.insert(0, f"this machine by about {duration(abs(here))}")
    yield Finding(
        name="clocks",
        ok=not late,
        detail="agree" if not late else f"{', '.join(late)} away from the clock of Redis",
        fix="Set the clocks with NTP: `timedatectl set-ntp true`.",
        needed=False,
    )


def _clock_off(node: NodeRecord, redis_now: datetime) -> float:
    """By how many seconds a node's clock differs at least. It has checked itself, by its own clock, between its start
    and now, by the clock of Redis."""
    if node.vetting is None:
        return 0.0
    slack = timedelta(seconds=node.vetting.took_s)
    before, after = node.started_at - slack - node.vetting.at, node.vetting.at - redis_now
    return max(before.total_seconds(), after.total_seconds())


def _alike(what: str, of: dict[str, str], fix: str = "") -> Iterator[Finding]:
    """Nothing where there is one of a kind."""
    if len(of) < 2:
        return
    groups: dict[str, list[str]] = {}
    for name, value in of.items():
        groups.setdefault(value, []).append(name)
    detail = (
        next(iter(groups))
        if len(groups) == 1
        else "; ".join(f"{value or 'unknown'} on {_named(names)}" for value, names in groups.items())
    )
    fix = fix or "Install the same on all: a job of several nodes starts only where they agree."
    yield Finding(name=what, ok=len(groups) == 1, detail=detail, fix=fix, needed=False)


def _gpus(node: NodeRecord) -> str:
    counted = Counter(node.gpus)
    return ", ".join(f"{count} x {name}" for name, count in counted.items()) or "none"


def _same_version(service: str) -> Finding:
    here = version("ladle")
    return Finding(
        name="version of this command",
        ok=here == service,
        detail=here if here == service else f"{here}, and the service has {service}",
        fix=f"pip install 'ladle=={service}'. Neighbouring versions understand each other.",
        needed=False,
    )


def _seen(client: Client, root: Path | str) -> Finding:
    """One worker looks. It says the same of a folder that is missing and of one that jobs may not read."""
    try:
        client.inspect(root)
    except LadleError as error:
        no_path = getattr(error, "code", None) == ErrorCode.PATH_NOT_ALLOWED
        return Finding(
            name=f"folder {root}",
            ok=False,
            detail="missing, or outside the allowed folders" if no_path else in_flags(str(error)),
            fix="Mount it at the same path on every node, below a folder that LADLE_ROOTS of the service and of the "
            "workers names.",
            needed=False,
        )
    return Finding(name=f"folder {root}", ok=True, detail="a worker sees it", needed=False)


def _queue(queued: Sequence[JobRecord], nodes: Iterable[NodeRecord]) -> Finding:
    """Why jobs wait, the most frequent reason first."""
    if not queued:
        return Finding(name="queue", ok=True, detail="no job waits", needed=False)
    reasons = Counter(job.waiting_for or "for their turn" for job in queued)
    told = [f"{count} {reason}" if count > 1 else reason for reason, count in reasons.most_common(MOST_NAMED)]
    oldest = min(job.created_at for job in queued)
    count = f"{len(queued)}{'+' if len(queued) == MOST_QUEUED else ''}"
    waits = (datetime.now(UTC) - oldest).total_seconds()
    return Finding(
        name="queue",
        ok=waits < LONG_S,
        detail=f"{count} waiting, the oldest since {ago(oldest)}: {'; '.join(told)}",
        fix=_more_nodes(nodes),
        needed=False,
    )


def _more_nodes(nodes: Iterable[NodeRecord]) -> str:
    if any(node.cordoned is not None for node in nodes):
        return "Put nodes back with `ladle node uncordon`, start more workers, or submit with a smaller `--min-nodes`."
    return "Start more workers, cancel jobs that nobody needs, or submit with a smaller `--min-nodes`."


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")

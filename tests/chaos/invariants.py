"""What must hold after every round, whatever happened. Each check returns what is wrong, in words."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladle_contracts import TERMINAL_STATES, keys
from ladle_engine import EngineError, rebuild
from tests.chaos.rounds import WHOLE, Round, Shape, coefficients
from tests.chaos.world import World
from tests.integration.machine import disagreements
from tests.polling import until


@dataclass(frozen=True)
class Undisturbed:
    """What a job of one shape gives when nothing happens to it."""

    coefficients: Any
    model: str
    told: Counter[tuple[str, ...]]

    @classmethod
    def of(cls, world: World, done: Round) -> Undisturbed:
        result = world.results / done.output
        told = Counter(told[1:] for told in what_was_told(world, done))
        return cls(coefficients(result), digest(result / "model.safetensors"), told)


def broken(world: World, done: Round, undisturbed: Mapping[Shape, Undisturbed]) -> list[str]:
    """Every invariant that does not hold."""
    return [
        *one_ending(world, done),
        *one_result_or_none(world, done, undisturbed[done.plan.shape]),
        *every_event_once(world, done, undisturbed[done.plan.shape]),
        *nothing_left(world, done),
    ]


def one_ending(world: World, done: Round) -> Iterator[str]:
    """It ended as one of the faults allows, once."""
    state, reason = done.fields["state"], done.fields.get("reason")
    ending = reason if state == "failed" else state
    if ending not in done.plan.endings:
        yield f"it ended as {ending}: {done.fields.get('message')}"
    if int(done.fields["failures"]) > sum(fault.failures for _, fault in done.plan.faults) and state != "failed":
        yield f"{done.fields['failures']} failures were counted"
    states = [body["state"] for body in bodies(world, done) if body["kind"] == "state"]
    if (ends := [each for each in states if each in TERMINAL_STATES]) != [state]:
        yield f"the events end as {ends}, the record as {state}"


def one_result_or_none(world: World, done: Round, expected: Undisturbed) -> Iterator[str]:
    yield from done.watched.in_part
    result = world.results / done.output
    if done.fields["state"] != "succeeded":
        if result.exists():
            yield f"a job that is {done.fields['state']} has a result"
        return
    if lacking := [name for name in WHOLE if not (result / name).exists()]:
        yield f"the result has no {', '.join(lacking)}"
        return
    if done.plan.changes_inputs:
        yield from is_what_it_says(world, done, result)
    elif coefficients(result) != expected.coefficients:
        yield "the coefficients are not those of an undisturbed run"
    elif digest(result / "model.safetensors") != expected.model:
        yield "the model is not that of an undisturbed run"


def is_what_it_says(world: World, done: Round, result: Path) -> Iterator[str]:
    """The model is the average of the files whose digests it names, unless they were changed after its end."""
    again = world.folder / f"again-{done.output}"
    try:
        rebuild(result, done.data / "checkpoints", output=again)
    except EngineError:
        return
    if digest(again / "model.safetensors") != digest(result / "model.safetensors"):
        yield "the model is not the average of the files that it names"


def every_event_once(world: World, done: Round, expected: Undisturbed) -> Iterator[str]:
    if done.watched.error is not None:
        yield f"a client that followed it got {done.watched.error!r}"
    with world.redis() as client:
        ids = [entry for entry, _ in client.xrange(keys.events(done.job_id))]
    if done.watched.event_ids != ids:
        missed, extra = set(ids) - set(done.watched.event_ids), Counter(done.watched.event_ids) - Counter(ids)
        yield f"a client missed the events {sorted(missed)} and got {sorted(extra)} too often"
    for told, count in Counter(what_was_told(world, done)).items():
        if count > expected.told[told[1:]]:
            yield f"attempt {told[0]} reported {count} times: {told[1:]}"


def what_was_told(world: World, done: Round) -> Iterator[tuple[str, str, str, str]]:
    """Attempt, kind, stage and method of what a rank reports as often in every run."""
    for body in bodies(world, done):
        if body["kind"] in ("stage", "checkpoints", "memory", "candidate"):
            method = body.get("method") or body.get("candidate", {}).get("method") or ""
            yield body["attempt"], body["kind"], body.get("stage", ""), method


def nothing_left(world: World, done: Round) -> Iterator[str]:
    """No process, no lease, no reservation."""
    yield from _stays("processes", lambda: [each.pid for each in world.of_job(done.job_id)])

    def held() -> list[str]:
        with world.redis() as client:
            nodes = [name for name in world.nodes if client.hget(keys.node(name), "job") == done.job_id]
            leases = client.hkeys(keys.leases(done.job_id))
            active = [keys.ACTIVE] if client.sismember(keys.ACTIVE, done.job_id) else []
            return [*nodes, *leases, *active]

    yield from _stays("leases", held)

    def wrong() -> list[str]:
        with world.redis() as client:
            return disagreements(client)

    yield from _stays("sets of jobs that disagree with the jobs", wrong)


def nothing_hidden(world: World) -> list[str]:
    """At the end of all rounds: no working folder, no staging folder, no temporary file. A sweep comes each minute."""
    return list(_stays("temporary files", lambda: [*hidden(world.results), *(world.results / ".ladle").iterdir()]))


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".ladle"]


def _stays(what: str, look: Callable[[], list[Any]]) -> Iterator[str]:
    try:
        until(lambda: not look(), timeout_s=150, what=f"no {what} to be left")
    except AssertionError:
        yield f"{what} were left: {[str(each) for each in look()]}"


def bodies(world: World, done: Round) -> list[dict[str, Any]]:
    """The events of a job, as they are in Redis, each with its attempt."""
    with world.redis() as client:
        entries = client.xrange(keys.events(done.job_id))
    return [json.loads(fields["body"]) | {"attempt": fields["attempt"]} for _, fields in entries]


def digest(path: Path) -> str:
    """SHA-256 of the tensors with their names. The header's metadata name the job."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header.pop("__metadata__", None)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + content[end:]).hexdigest()

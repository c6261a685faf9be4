"""One round: a job, the faults that happen to it, and the moments at which they do."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ladle import LadleError
from ladle_contracts import TERMINAL_STATES
from tests.chaos.faults import FAULTS, MOST_FAILURES, Fault, Incident
from tests.chaos.held_rank import HOLDS
from tests.chaos.world import World, pause
from tests.polling import DEADLINE_S, until

METHODS = ("twa", "twa-layerwise", "greedy-soup")
SUBMITTED, OUTCOME = "submitted", "outcome-"
WATCH_S = 0.02


@dataclass(frozen=True)
class Shape:
    """What is asked for."""

    method: str
    ranks: int

    @property
    def options(self) -> dict[str, Any]:
        options = {} if self.method == "greedy-soup" else {"steps": 30}
        return {"method": {"name": self.method, "options": options}, "resources": {"ranks_per_node": self.ranks}}


@dataclass(frozen=True)
class Plan:
    """A round before it happens: all of it comes from the seed."""

    number: int
    shape: Shape
    faults: tuple[tuple[str, Fault], ...]
    """Each with the moment at which it happens, in order."""

    @property
    def endings(self) -> frozenset[str]:
        return frozenset().union(*(fault.endings for _, fault in self.faults)) or frozenset({"succeeded"})

    @property
    def changes_inputs(self) -> bool:
        return any(fault.changes_inputs for _, fault in self.faults)

    def __str__(self) -> str:
        faults = ", ".join(f"{fault.name} at {moment.strip('-')}" for moment, fault in self.faults) or "nothing"
        return f"round {self.number}: {self.shape.method} on {self.shape.ranks} rank(s): {faults}"


@dataclass
class Watched:
    """What a client and the disk showed while the job ran."""

    event_ids: list[str] = field(default_factory=list)
    in_part: list[str] = field(default_factory=list)
    """What a result lacked when its folder could be seen."""
    error: BaseException | None = None


@dataclass
class Round:
    """What happened."""

    plan: Plan
    job_id: str
    output: str
    data: Path
    fields: Mapping[str, str]
    """The job's hash when it had ended."""
    watched: Watched


def plan(seed: int, number: int, moments: Mapping[Shape, Sequence[str]], *, has_disk: bool) -> Plan:
    """The same for the same arguments."""
    rng = random.Random(f"{seed}/{number}")
    shape = rng.choice(sorted(moments, key=str))
    faults: list[Fault] = []
    for fault in rng.choices([each for each in FAULTS if has_disk or not each.needs_disk], k=rng.choice([1, 1, 2, 3])):
        if sum(each.failures for each in (*faults, fault)) <= MOST_FAILURES:
            faults.append(fault)
    order = [SUBMITTED, *moments[shape], OUTCOME]
    at = sorted(rng.randrange(len(order)) for _ in faults)
    return Plan(number, shape, tuple((order[position], fault) for position, fault in zip(at, faults, strict=True)))


def run(world: World, plan: Plan, seed: int) -> Round:
    """Submits the job, lets the faults happen, and waits for the job's end."""
    rng = random.Random(f"{seed}/{plan.number}/run")
    output = f"out-{plan.number}"
    data = world.new_data(f"round-{plan.number}")
    for moment, _ in plan.faults:
        if moment != SUBMITTED:
            (data / HOLDS / moment).touch()
    with world.client() as client:
        job = client.submit(data / "checkpoints", data / "val.npz", output={"name": output}, **plan.shape.options)
    watched = Watched()
    over = threading.Event()
    threads = [
        threading.Thread(target=_follow, args=(world, job.id, watched), daemon=True),
        threading.Thread(target=_watch_result, args=(world.results / output, watched, over), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        for moment, fault in plan.faults:
            _wait_for(world, job.id, moment)
            pause(rng, 0.3)
            with suppress(LadleError):  # a cancel that comes too late
                fault.act(world, Incident(job_id=job.id, data=data, rng=rng))
            # What is held at the moment goes on while the fault lasts.
            (data / HOLDS / moment).unlink(missing_ok=True)
            time.sleep(rng.uniform(*fault.lasts_s))
            world.heal()
    finally:
        for hold in (data / HOLDS).iterdir():
            hold.unlink()
    until(lambda: _has_ended(world, job.id), what=f"job {job.id} to end ({plan})", timeout_s=DEADLINE_S)
    threads[0].join(DEADLINE_S)
    over.set()
    threads[1].join(DEADLINE_S)
    return Round(plan, job.id, output, data, world.fields(job.id), watched)


def _has_ended(world: World, job_id: str) -> bool:
    return world.fields(job_id).get("state") in TERMINAL_STATES


def _wait_for(world: World, job_id: str, moment: str) -> None:
    """Or for the job's end, if it does not get there."""
    if moment == SUBMITTED:
        return

    def reached() -> bool:
        return any((world.results / ".ladle" / job_id).glob(f"attempt-*/reached-{moment}")) or _has_ended(world, job_id)

    until(reached, what=f"{moment} of job {job_id}")


def _follow(world: World, job_id: str, watched: Watched) -> None:
    """A client that reconnects as often as it must."""
    while True:
        try:
            with world.client() as client:
                after = watched.event_ids[-1] if watched.event_ids else None
                for event in client.job(job_id).events(follow=True, after=after):
                    watched.event_ids.append(event.id)
                return
        except LadleError as error:
            if getattr(error, "status", None) not in (None, 503):
                watched.error = error
                return
            time.sleep(0.2)
        except BaseException as error:
            watched.error = error
            return


WHOLE = ("coefficients.json", "config.json", "model.safetensors", "report.json")


def _watch_result(folder: Path, watched: Watched, over: threading.Event) -> None:
    while not over.wait(WATCH_S):
        if not folder.exists():
            continue
        lacking = [name for name in WHOLE if not (folder / name).exists()]
        # It may have been withdrawn in between, and then nothing of it is there.
        if lacking and folder.exists() and len(lacking) < len(WHOLE):
            watched.in_part.append(f"{folder.name} without {', '.join(lacking)}")


def coefficients(result: Path) -> Any:
    """The coefficients of every candidate."""
    content = json.loads((result / "coefficients.json").read_text())
    return {name: candidate["alpha"] for name, candidate in content["candidates"].items()}

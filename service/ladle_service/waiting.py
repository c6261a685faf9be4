"""Why a queued job waits, where it is in the queue, and when it may start: in words, from what `waiting.lua` counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

from ladle_contracts import JobRecord


@dataclass(frozen=True, kw_only=True)
class Supply:
    """What a job asks for, and what is there for it."""

    nodes: int
    least: int
    """The fewest nodes with which it starts after a while."""
    ranks: int
    free: int
    alive: int
    room: int
    """How many more jobs the dispatchers take."""
    holds: int
    """How many they hold at the most."""
    cordoned: int = 0
    """How many more nodes there are that take no jobs."""

    @property
    def lacks_nodes(self) -> bool:
        return self.free < self.nodes and self.room == 0

    @property
    def in_words(self) -> str:
        """`needs 2 nodes, 1 free of 3`"""
        kind = f" of {self.ranks} ranks" if self.ranks > 1 else ""
        text = f"needs {self.nodes} node{'' if self.nodes == 1 else 's'}{kind}, {self.free} free of {self.alive}"
        if self.cordoned:
            text += f"; {self.cordoned} more {'takes' if self.cordoned == 1 else 'take'} no jobs"
        return f"{text}, and no dispatcher has room" if self.holds else text


@dataclass(frozen=True, kw_only=True)
class Turn(Supply):
    """One queued job."""

    backoff_ms: float
    """How long it waits before its next attempt."""
    fewer_in_ms: float
    """When it may start with fewer nodes."""
    jobs_before: float
    nodes_before: float
    """How many nodes those need."""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What `waiting.lua` answers."""

    took_ms: Sequence[float]
    """How long the last jobs took."""
    running: Sequence[tuple[int, float]]
    """How many nodes each running job has, and for how many milliseconds."""
    head: Supply | None
    """What the next job needs, while it waits for nodes."""
    jobs: Sequence[Turn | None]
    """None for one that has started meanwhile."""

    @classmethod
    def read(cls, text: str) -> Self:
        """Lua writes an empty list as `{}`."""
        answer: dict[str, Any] = json.loads(text)
        return cls(
            took_ms=list(answer["took_ms"]),
            running=[(job["nodes"], job["ms"]) for job in answer["running"]],
            head=Supply(**answer["head"]) if "head" in answer else None,
            jobs=[Turn(**job) if job else None for job in answer["jobs"]],
        )


def waits(turn: Turn, queue: Queue) -> Mapping[str, Any]:
    """The fields of a queued job's record that say how it waits."""
    return {
        "waiting_for": _reason(turn, queue.head),
        "queue_position": round(turn.jobs_before) + 1,
        "starts_in_s": starts_in_s(turn, queue),
    }


def with_wait(record: JobRecord, turn: Turn | None, queue: Queue) -> JobRecord:
    return record if turn is None else record.model_copy(update=waits(turn, queue))


def _reason(turn: Turn, head: Supply | None) -> str | None:
    if turn.backoff_ms > 0:
        return f"is tried again in {max(1, round(turn.backoff_ms / 1000))} s"
    if turn.lacks_nodes:
        return turn.in_words + _fewer(turn)
    if before := round(turn.jobs_before):
        text = f"is behind {before} other job{'' if before == 1 else 's'}"
        return f"{text}, and the next one {head.in_words}" if head is not None else text
    return None


def _fewer(turn: Turn) -> str:
    if turn.least == turn.nodes or turn.alive < turn.least:
        return ""
    if turn.fewer_in_ms > 0 and turn.alive >= turn.nodes:
        return f"; with {turn.least} it starts in {max(1, round(turn.fewer_in_ms / 1000))} s"
    return f"; {turn.least} are enough"


def starts_in_s(turn: Turn, queue: Queue) -> float | None:
    """About how long the job still waits. None if nothing is known: no job has succeeded yet, or nodes are missing.

    Each node is thought to run one job after the other, and each job to take as long as the last ones did (the median).
    """
    places = turn.alive + turn.holds
    needed = 1 if turn.alive < turn.least else min(turn.nodes, turn.alive)
    if places == 0 or (turn.alive < turn.least and turn.holds == 0):
        return None
    if not turn.jobs_before and not turn.lacks_nodes:
        return turn.backoff_ms / 1000
    if not queue.took_ms:
        return None
    ends = sorted(_left(ms, queue.took_ms) for nodes, ms in queue.running for _ in range(nodes))[:places]
    ends = [0.0] * (places - len(ends)) + ends
    rounds, place = divmod(round(turn.nodes_before) + needed - 1, places)
    return (max(turn.backoff_ms, ends[place] + rounds * median(queue.took_ms))) / 1000


def _left(ran_ms: float, took_ms: Sequence[float]) -> float:
    """Of a running job. One that has run longer than the others is thought to run as long again."""
    longer = [each - ran_ms for each in took_ms if each > ran_ms]
    return median(longer) if longer else ran_ms

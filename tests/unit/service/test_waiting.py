"""When a queued job may start, from what Redis counts, and how the command says it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ladle.cli.render import turn
from ladle_contracts import JobRecord, JobSpec, JobState
from ladle_service.waiting import Queue, Turn, starts_in_s, waits

MINUTE_MS = 60_000


def job(**changed: Any) -> Turn:
    """It needs one node of two, and none is free."""
    common = {"nodes": 1, "least": 1, "ranks": 1, "free": 0, "alive": 2, "room": 0, "holds": 0}
    return Turn(**{**common, "backoff_ms": 0, "fewer_in_ms": 0, "jobs_before": 0, "nodes_before": 0, **changed})


def queue(took: list[float], running: list[tuple[int, float]]) -> Queue:
    """In minutes."""
    return Queue(
        took_ms=[each * MINUTE_MS for each in took],
        running=[(nodes, each * MINUTE_MS) for nodes, each in running],
        head=None,
        jobs=(),
    )


USUAL = queue([10, 10, 10], [(1, 4), (1, 1)])
"""Jobs take ten minutes, and two are running."""


@pytest.mark.parametrize(
    ("waiting", "minutes"),
    [
        (job(), 6),
        (job(nodes=2, least=2), 9),
        (job(jobs_before=1, nodes_before=1), 9),
        (job(jobs_before=2, nodes_before=2), 16),
        (job(jobs_before=5, nodes_before=5), 29),
        (job(backoff_ms=8 * MINUTE_MS), 8),
        (job(free=2), 0),
        (job(free=2, backoff_ms=MINUTE_MS), 1),
    ],
    ids=["the next", "both nodes", "second", "third", "sixth", "backs off", "free", "free, but backs off"],
)
def test_each_node_is_thought_to_run_one_job_after_the_other(waiting: Turn, minutes: float) -> None:
    assert starts_in_s(waiting, USUAL) == pytest.approx(minutes * 60)


@pytest.mark.parametrize(
    ("waiting", "known"),
    [
        (job(), queue([], [(1, 4), (1, 1)])),
        (job(nodes=4, least=3, free=2), USUAL),
        (job(alive=0), USUAL),
    ],
    ids=["no job has succeeded", "too few nodes", "no node"],
)
def test_nothing_is_said_where_nothing_is_known(waiting: Turn, known: Queue) -> None:
    assert starts_in_s(waiting, known) is None


def test_a_job_that_runs_longer_than_the_others_did_is_thought_to_run_as_long_again() -> None:
    assert starts_in_s(job(alive=1), queue([10], [(1, 30)])) == 30 * 60
    assert starts_in_s(job(alive=1), queue([10, 10, 10, 50], [(1, 30)])) == 20 * 60


def test_dispatchers_count_with_as_many_places_as_they_hold() -> None:
    full = queue([10], [(1, 2), (1, 8)])
    assert starts_in_s(job(alive=0, holds=2), full) == 2 * 60
    assert starts_in_s(job(nodes=8, least=8, alive=0, holds=2, jobs_before=1, nodes_before=1), full) == 8 * 60


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "needs 1 node, 0 free of 2"),
        (
            {"nodes": 4, "least": 2, "alive": 4, "fewer_in_ms": 90_000},
            "needs 4 nodes, 0 free of 4; with 2 it starts in 90 s",
        ),
        ({"nodes": 4, "least": 2, "alive": 3}, "needs 4 nodes, 0 free of 3; 2 are enough"),
        ({"nodes": 4, "least": 2, "alive": 1}, "needs 4 nodes, 0 free of 1"),
        ({"free": 1, "jobs_before": 2}, "is behind 2 other jobs"),
        ({"backoff_ms": 4_000}, "is tried again in 4 s"),
        ({"free": 1}, None),
    ],
)  # fmt: skip
def test_why_a_job_waits_is_said_in_words(changed: dict[str, Any], words: str | None) -> None:
    assert waits(job(**changed), USUAL)["waiting_for"] == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "position 3, nothing is known yet about when it starts"),
        (20.0, "position 3, starts within a minute"),
        (700.0, "position 3, starts in about 12 min"),
        (5 * 3600.0, "position 3, starts in about 5 h"),
        (3 * 86400.0, "position 3, starts in about 3 days"),
    ],
)
def test_the_command_says_the_position_and_about_when_a_job_starts(seconds: float | None, words: str) -> None:
    record = JobRecord(
        id="j",
        spec=JobSpec(ckpt_dir="/c", val_set="/v"),
        state=JobState.QUEUED,
        created_at=datetime.now(UTC),
        queue_position=3,
        starts_in_s=seconds,
    )
    assert turn(record) == words
    assert turn(record.model_copy(update={"queue_position": None})) == ""

"""While something of an attempt runs: the lease is held, and what Redis or the limits say ends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from ladle_contracts import JobSpec, Reason, Resources
from ladle_worker.commit import Lost
from ladle_worker.disk_faults import DiskFault
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.launch.launcher import Status
from ladle_worker.watch import Watch

RUNS, OVER = Status(), Status(is_over=True, code=0)
QUEUED = Status(waits_for="the machines are taken")
NO_REDIS = ConnectionError("Redis is away")


class Claimed:
    """A claim that answers renewals in turn, the last one again and again."""

    nodes = ("n1", "n2")

    def __init__(self, answers: Sequence[str | Exception], *, speaks: bool = True, ran_s: float = 0.0) -> None:
        self._answers = list(answers)
        self.speaks, self.ran_s = speaks, ran_s
        self.spec = JobSpec(ckpt_dir="/c", val_set="/v", resources=Resources(timeout_s=1000.0))
        self.lines: list[str] = []
        self.renewals: list[str] = []

    def renew(self, waits_for: str = "") -> str:
        self.renewals.append(waits_for)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def report(
        self, offset: int, progress: object, bodies: Sequence[str], lines: Sequence[str], counted: object
    ) -> None:
        self.lines += lines


def launcher(*statuses: Status) -> Any:
    """Its status in turn, the last one again and again."""

    def told() -> Iterator[Status]:
        yield from statuses
        while True:
            yield statuses[-1]

    return SimpleNamespace(status=told().__next__)


def watch_of(path: Path, claim: Claimed, *, stall_s: float = 1000.0) -> Watch:
    folder = AttemptFolder(path / "attempt-1")
    folder.make()
    folder.log.write_text("a rank's line\n")
    settings: Any = SimpleNamespace(poll_s=0.001, stall_s={"": stall_s}, lease_s=1.0)
    state_copy: Any = SimpleNamespace(send_if_due=lambda: None)
    faked: Any = claim
    return Watch(settings, faked, folder, state_copy)


def test_ranks_that_end_are_followed_to_the_end_and_relayed(tmp_path: Path) -> None:
    claim = Claimed(["ok"])
    assert watch_of(tmp_path, claim).follow(launcher(QUEUED, RUNS, OVER)) == "ok"
    assert claim.renewals == ["the machines are taken", "", ""]
    assert claim.lines == ["a rank's line"]


@pytest.mark.parametrize("speaks", [True, False])
def test_only_the_first_node_relays(speaks: bool, tmp_path: Path) -> None:
    claim = Claimed(["ok"], speaks=speaks)
    watch_of(tmp_path, claim).follow(launcher(OVER))
    assert bool(claim.lines) is speaks


def test_ranks_go_on_while_redis_is_away_and_their_end_waits_for_it(tmp_path: Path) -> None:
    claim = Claimed([NO_REDIS, NO_REDIS, NO_REDIS, "ok"])
    assert watch_of(tmp_path, claim).follow(launcher(RUNS, OVER)) == "ok"
    assert len(claim.renewals) == 4


@pytest.mark.parametrize(
    ("answer", "outcome", "reason"),
    [("cancel", "failed", Reason.CANCELLED), ("release", "released", Reason.NODE_LOST)],
)
def test_what_redis_says_ends_the_attempt(answer: str, outcome: str, reason: Reason, tmp_path: Path) -> None:
    watch = watch_of(tmp_path, Claimed(["ok", answer]))
    assert watch.follow(launcher(RUNS)) == answer
    ended = watch.ended_by(answer)
    assert (ended.outcome, ended.reason) == (outcome, reason)


def test_a_lost_attempt_is_nobodys_to_end(tmp_path: Path) -> None:
    watch = watch_of(tmp_path, Claimed(["lost"]))
    with pytest.raises(Lost):
        watch.ended_by(watch.follow(launcher(RUNS)))
    with pytest.raises(Lost):
        watch.await_end()


@pytest.mark.parametrize("first", ["ok", NO_REDIS], ids=str)
def test_ranks_in_which_nothing_moves_have_stalled(first: str | Exception, tmp_path: Path) -> None:
    watch = watch_of(tmp_path, Claimed([first]), stall_s=0.02)
    assert watch.follow(launcher(RUNS)) == "stalled"
    ended = watch.ended_by("stalled")
    assert (ended.outcome, ended.reason) == ("crashed", Reason.STALLED)
    assert list(ended.log_tail) == ["a rank's line"]


def test_a_job_whose_time_is_up_ends_where_its_first_node_says_so(tmp_path: Path) -> None:
    watch = watch_of(tmp_path, Claimed(["ok"], ran_s=1000.0))
    assert watch.follow(launcher(RUNS)) == "timed-out"
    ended = watch.ended_by("timed-out")
    assert (ended.outcome, ended.reason) == ("failed", Reason.TIMED_OUT)
    others = watch_of(tmp_path, Claimed(["ok", "ok", "cancel"], speaks=False, ran_s=1000.0))
    assert others.follow(launcher(RUNS)) == "cancel"


def test_a_node_of_several_notices_a_disk_that_takes_no_files(tmp_path: Path) -> None:
    watch = watch_of(tmp_path, Claimed(["ok"]))
    (tmp_path / "attempt-1").rename(tmp_path / "gone")
    assert watch.follow(launcher(RUNS, OVER)) == "ok", "a node that is alone writes enough"
    watch.looks_at_disk = True
    with pytest.raises(DiskFault, match="write the job's files"):
        watch.follow(launcher(RUNS, OVER))


def test_the_lease_is_held_until_another_node_has_told_the_end_or_for_a_while(tmp_path: Path) -> None:
    claim = Claimed(["ok", NO_REDIS, "cancel"])
    ended = watch_of(tmp_path, claim).await_end()
    assert ended is not None
    assert ended.reason is Reason.CANCELLED
    assert len(claim.renewals) == 3
    assert watch_of(tmp_path, Claimed(["ok"])).await_end(0.01) is None

"""How long a job may run, all its attempts together."""

from __future__ import annotations

from ladle_contracts import Reason
from ladle_worker.time_limit import TimeLimit


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_what_earlier_attempts_have_run_is_taken_off() -> None:
    clock = Clock()
    limit = TimeLimit(60.0, 45.0, clock)
    clock.seconds += 14.9
    assert not limit.is_over()
    clock.seconds += 0.1
    assert limit.is_over()


def test_without_a_limit_it_never_ends() -> None:
    clock = Clock()
    limit = TimeLimit(None, 1e9, clock)
    clock.seconds += 1e12
    assert not limit.is_over()


def test_the_end_is_final_and_names_the_limit_and_the_stage() -> None:
    ended = TimeLimit(90.0, 0.0).ended("train")
    assert (ended.outcome, ended.reason) == ("failed", Reason.TIMED_OUT)
    assert "90 s, which `resources.timeout_s` allows at most" in ended.message
    assert "stage `train`" in ended.message

"""Patience with Redis: what passes is waited for, however long, and what does not pass is raised."""

from __future__ import annotations

import logging
import time

import pytest
from redis.exceptions import AuthenticationError, ConnectionError, RedisError, ResponseError, TimeoutError

from ladle_worker.connection import LONGEST_PAUSE_S, OutageLog, patiently

OUTAGES: list[RedisError] = [
    ConnectionError("refused"),
    TimeoutError("x"),
    ResponseError("MISCONF x"),
    ResponseError("MISCONF x"),
    AuthenticationError("x"),
    ResponseError("BUSY x"),
]


def test_whatever_passes_is_waited_for_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    errors = [*OUTAGES * 20]

    def call() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    assert patiently(call) == "done"
    assert len(pauses) == 20 * len(OUTAGES)
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
    said = [record.getMessage() for record in caplog.records]
    assert said[-1] == "Redis works again."
    assert len(said) == 20 * (len(OUTAGES) - 1) + 1, "two in a row that say the same are one"


def test_a_command_that_redis_does_not_understand_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("there is nothing to wait for"))

    def call() -> None:
        raise ResponseError("WRONGTYPE x")

    with pytest.raises(ResponseError):
        patiently(call)


def test_who_waits_can_be_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def call() -> None:
        raise ConnectionError

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        patiently(call, between=stop)


def test_a_log_of_outages_says_nothing_while_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = OutageLog()
    log.passed()
    log.passed()
    assert not caplog.records

"""A log that says the same again and again does not grow."""

from __future__ import annotations

import logging

import pytest

from ladle_contracts.repeats import KINDS, NOTES, VARIANTS, WARNINGS, WINDOW_S, Repeats

Log = tuple[logging.Logger, list[str]]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Lines(logging.Handler):
    """What is logged."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.addFilter(Repeats(clock))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> Log:
    handler = Lines(clock)
    logger = logging.Logger("ladle_test")
    logger.addHandler(handler)
    return logger, handler.lines


def test_a_warning_is_said_a_few_times_and_then_counted(log: Log, clock: Clock) -> None:
    logger, lines = log
    for number in range(10_000):
        logger.warning("socket.accept() out of system resource\nsocket: <fd=%d>", number)
    assert len(lines) == WARNINGS
    assert "more like this are left out" in lines[-1]
    logger.warning("something else")
    assert lines[-1] == "something else"
    clock.now += WINDOW_S
    logger.warning("socket.accept() out of system resource\nsocket: <fd=%d>", 1)
    assert f"{10_000 - WARNINGS} more like this were left out" in lines[-1]
    assert len(lines) == WARNINGS + 2


def test_the_same_about_different_things_is_said_more_often_but_not_for_ever(log: Log) -> None:
    logger, lines = log
    for number in range(1000):
        logger.warning("job %s has failed", "abcdefghij"[number % 10] * (1 + number // 10))
    assert len(lines) == VARIANTS
    assert len(set(lines)) == VARIANTS


def test_levels_loggers_and_kinds_of_errors_are_counted_apart(log: Log) -> None:
    logger, lines = log
    for _ in range(100):
        logger.warning("it failed")
        logger.error("it failed")
        for kind in (ValueError, KeyError):
            try:
                raise kind
            except kind:
                logger.exception("it failed")
    assert len(lines) == 4 * WARNINGS


def test_notes_may_come_in_numbers(log: Log) -> None:
    logger, lines = log
    for number in range(NOTES + 100):
        logger.info('%s - "GET /v1/jobs"', number)
    assert len(lines) == NOTES


def test_what_is_remembered_is_bounded(log: Log) -> None:
    logger, lines = log
    repeats = logger.handlers[0].filters[0]
    assert isinstance(repeats, Repeats)
    for number in range(3 * KINDS):
        logger.warning("x" * (number % 199) + "y" * (number // 199))
    assert len(repeats._kinds) <= KINDS
    assert lines


def test_a_message_with_wrong_arguments_harms_nobody(log: Log) -> None:
    logger, _ = log
    record = logger.makeRecord("ladle_test", logging.WARNING, "f", 1, "%d of %s", ("x",), None)
    assert logger.handlers[0].filters[0].filter(record)  # type: ignore[union-attr]

"""Nobody can forge a line of the service's or the worker's log."""

from __future__ import annotations

import io
import logging

import pytest

from ladle_contracts.logs import LINE, MARK, SafeFormatter
from tests.hostile import FORGED, HOSTILE, NOT_UTF8, unsafe_in


class Log:
    """A logger of our format."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.logger = logging.Logger("ladle_test")
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(SafeFormatter(LINE))
        self.logger.addHandler(handler)

    @property
    def lines(self) -> list[str]:
        assert not unsafe_in(self.stream.getvalue())
        return self.stream.getvalue().removesuffix("\n").split("\n")


@pytest.mark.parametrize("text", [HOSTILE, NOT_UTF8, "a\nb", "a\r\x1b[2K", "2026-01-01 INFO x: y\n" * 3])
def test_whatever_is_logged_is_one_line(text: str) -> None:
    log = Log()
    log.logger.warning("the task %s does not load: %r", text, text)
    log.logger.warning(text)
    assert len(log.lines) == 2


def test_a_traceback_is_marked_on_every_line() -> None:
    log = Log()
    try:
        raise ValueError(f"first\n2026-01-01 00:00:00 INFO ladle: {FORGED}\n{HOSTILE}")
    except ValueError:
        log.logger.exception("a plug-in failed: %s", HOSTILE, stack_info=True)
    first, *rest = log.lines
    assert "a plug-in failed" in first
    assert len(rest) > 5
    assert all(line.startswith(MARK) for line in rest)


def test_what_another_formatter_has_prepared_is_not_used() -> None:
    log = Log()
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "m", (), (ValueError, ValueError("a\nb"), None))
    record.exc_text = "raw\nFORGED"
    log.logger.handle(record)
    assert all(line.startswith(MARK) for line in log.lines[1:])

"""The log of the service and of the worker: plain lines that nobody can forge."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TypeAlias

from ladle_contracts.repeats import Repeats
from ladle_contracts.safe_text import for_terminal, one_line

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MARK = "    | "
"""Begins every line of a traceback. A line that begins otherwise is the first one of an entry."""

_Raised: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def set_up_logging(level: str) -> None:
    """Everything goes to stderr, in this program's only handler."""
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter(LINE))
    handler.addFilter(Repeats())
    logging.basicConfig(level=level.upper(), handlers=[handler])


class SafeFormatter(logging.Formatter):
    """One line for each entry: paths, messages of plug-ins and request lines are escaped in it."""

    def format(self, record: logging.LogRecord) -> str:
        """logging's own."""
        record.exc_text = None  # another formatter may have left its own here
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """logging's own."""
        return one_line(super().formatMessage(record))

    def formatException(self, ei: _Raised) -> str:
        """logging's own."""
        return _marked(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """logging's own."""
        return _marked(super().formatStack(stack_info))


def _marked(text: str) -> str:
    return "\n".join(MARK + line for line in for_terminal(text.expandtabs()).split("\n"))

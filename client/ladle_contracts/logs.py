"""The log of the service and of the worker: plain lines that nobody can forge, or a JSON object in each line.

`LADLE_LOG_FORMAT=json` chooses the second. Then every entry says what it is about: `job`, `attempt`, `node`, `rank`,
`request_id`, as far as it is about one.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import TypeAlias

from ladle_contracts.repeats import Repeats
from ladle_contracts.safe_text import for_terminal, one_line

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MARK = "    | "
"""Begins every line of a traceback. A line that begins otherwise is the first one of an entry."""
FORMAT_VARIABLE = "LADLE_LOG_FORMAT"
TEXT, JSON = FORMATS = ("text", "json")

_Raised: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
_always: dict[str, str | int] = {}
_about: ContextVar[Mapping[str, str | int]] = ContextVar("about", default={})  # noqa: B039 - nobody changes it


def set_up_logging(level: str, form: str | None = None) -> None:
    """Everything goes to stderr, in this program's only handler. `form` is `text` or `json`, by default that of the
    environment."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if (form or log_format()) == JSON else SafeFormatter(LINE))
    handler.addFilter(Repeats())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def log_format() -> str:
    """As the environment says. What is neither `text` nor `json` is refused where all settings are read."""
    return JSON if os.environ.get(FORMAT_VARIABLE, "").lower() == JSON else TEXT


@contextmanager
def about(**fields: str | int) -> Iterator[None]:
    """What the entries of this thread or task are about, inside the block."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def bind(**fields: str | int) -> None:
    """What the entries of this thread or task are about from now on."""
    _about.set({**_about.get(), **fields})


def always_about(**fields: str | int) -> None:
    """What all entries of this process are about, in every thread and in its children."""
    _always.update(fields)


def what_about() -> Mapping[str, str | int]:
    """What entries are about at this moment."""
    return _about.get()


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


class JsonFormatter(logging.Formatter):
    """One JSON object for each entry, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """logging's own."""
        at = datetime.fromtimestamp(record.created, UTC)
        entry = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_always,
            **_about.get(),
            **getattr(record, "about", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        return json.dumps(entry)


def _marked(text: str) -> str:
    return "\n".join(MARK + line for line in for_terminal(text.expandtabs()).split("\n"))

"""Logs for programs: one JSON object per line, whatever is in a message, with what the entry is about."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ladle_contracts import logs
from ladle_contracts.logs import JsonFormatter, about, always_about, bind, log_format, what_about
from ladle_worker.rank_lines import logger as ranks_logger
from ladle_worker.rank_lines import told_by_ranks
from tests.hostile import HOSTILE, NOT_UTF8

STREAM = io.StringIO()


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    STREAM.seek(0)
    STREAM.truncate()
    logger = logging.Logger("ladle_test")
    handler = logging.StreamHandler(STREAM)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    ranks_logger.addHandler(handler)
    ranks_logger.setLevel(logging.INFO)
    yield logger
    ranks_logger.removeHandler(handler)


def entries() -> list[dict[str, Any]]:
    return [json.loads(line) for line in STREAM.getvalue().removesuffix("\n").split("\n")]


@pytest.mark.parametrize("text", [HOSTILE, NOT_UTF8, 'a\nb "}{', "\u2028\x85\x1b[2J"])
def test_a_message_is_one_line_and_comes_back_as_it_was(log: logging.Logger, text: str) -> None:
    log.warning("said: %s", text)
    assert STREAM.getvalue().isascii()
    [entry] = entries()
    assert (entry["level"], entry["logger"], entry["message"]) == ("warning", "ladle_test", f"said: {text}")
    assert entry["time"].endswith("Z")


def test_an_error_has_its_traceback(log: logging.Logger) -> None:
    try:
        raise ValueError("no\nsuch thing")
    except ValueError:
        log.exception("it failed")
    [entry] = entries()
    assert "ValueError: no\nsuch thing" in entry["exception"]


def test_entries_say_what_they_are_about_in_their_own_thread_only(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_always", {})
    always_about(node="n")
    with about(job="j", attempt=2):
        bind(request_id="r")
        log.info("inside")
        other = threading.Thread(target=log.info, args=("elsewhere",))
        other.start()
        other.join()
    log.info("after")
    assert what_about() == {}
    fields = [{name: entry.get(name) for name in ("node", "job", "attempt", "request_id")} for entry in entries()]
    nothing = {"node": "n", "job": None, "attempt": None, "request_id": None}
    assert fields == [{"node": "n", "job": "j", "attempt": 2, "request_id": "r"}, nothing, nothing]


def test_what_ranks_print_is_there_with_its_rank_where_torch_says_it(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_by_ranks(["people have it with the job"])
    assert STREAM.getvalue() == ""
    monkeypatch.setenv("LADLE_LOG_FORMAT", "json")
    told_by_ranks(["[rank3]: Traceback", "a line"])
    assert [(entry["message"], entry.get("rank")) for entry in entries()] == [
        ("[rank3]: Traceback", 3),
        ("a line", None),
    ]


@pytest.mark.parametrize(("given", "form"), [("", "text"), ("JSON", "json"), ("json", "json"), ("xml", "text")])
def test_the_environment_says_which_form(monkeypatch: pytest.MonkeyPatch, given: str, form: str) -> None:
    monkeypatch.setenv("LADLE_LOG_FORMAT", given)
    assert log_format() == form

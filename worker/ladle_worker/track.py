"""Tells one tracker of one attempt: a process beside the agent, with the operator's environment.

python -m ladle_worker.track <the attempt's file of events> <tracker>

Its parent writes two lines to its stdin: what the run is called, and at the end how the attempt has ended. If the
tracker fails, one line on stdout says why. What its library prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ladle_contracts import EventBody
from ladle_contracts.events import read_event_body
from ladle_trackers.base import Run
from ladle_trackers.guarded import Guarded
from ladle_worker.relay import TailedFile

LOOK_S = 0.5


def main(events_file: str, name: str) -> int:
    said = os.dup(1)
    os.dup2(2, 1)
    request = json.loads(sys.stdin.buffer.readline())
    run = Run(**request | {"folder": Path(request["folder"])})
    tracker = Guarded(name, run, lambda told: _say(said, told))
    ended = _follow(tracker, TailedFile(Path(events_file)))
    if ended.get("result"):
        tracker.result(Path(ended["result"]))
    if not tracker.has_failed:
        tracker.end(ok=bool(ended.get("ok")))
    return 0


def _follow(tracker: Guarded, events: TailedFile) -> dict[str, Any]:
    """Tells what the ranks write, until the attempt has ended, and how it has. Empty if nobody says so."""
    ended = None
    while ended is None and not tracker.has_failed:
        ended = _last_word(LOOK_S)
        for event in _read(events):
            tracker.event(event)
    return ended or {}


def _read(events: TailedFile) -> Iterator[EventBody]:
    while lines := events.read():
        for line in lines:
            try:
                yield read_event_body(line)
            except ValueError:
                # The agent has the last word on what ranks write.
                continue
        events.keep()


def _last_word(wait_s: float) -> dict[str, Any] | None:
    """What the agent says at the end. Empty if it is gone; None while the attempt goes on."""
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    if not ready:
        return None
    line = sys.stdin.buffer.readline()
    found: dict[str, Any] = json.loads(line) if line else {}
    return found


def _say(descriptor: int, problem: str) -> None:
    os.write(descriptor, json.dumps({"problem": problem}).encode() + b"\n")


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Libraries have threads that need not end.
    os._exit(status)

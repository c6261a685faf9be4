"""A tracker that may fail: then it is told no more, somebody hears why, and nothing else happens."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ladle_trackers.base import CannotTrack, Run, Tracker
from ladle_trackers.registry import open_tracker
from ladle_trackers.telling import Telling

FILES = ("report.html", "report.json", "coefficients.json")
"""What of a result trackers keep, where it is there."""
MOST_BYTES = 64 << 20
MOST_CHARS = 300
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
Hear = Callable[[str], None]


class Guarded:
    """One tracker. No method raises."""

    def __init__(self, name: str, run: Run, hear: Hear) -> None:
        """`hear` gets one sentence about the first failure."""
        self._name, self._hear = name, hear
        self._tracker: Tracker | None = None
        self._telling: Telling | None = None
        self._do(lambda: self._open(run))

    @property
    def has_failed(self) -> bool:
        return self._telling is None

    def event(self, event: Any) -> None:
        if self._telling is not None:
            self._do(partial(self._telling.event, event))

    def result(self, folder: Path) -> None:
        """What is in a folder of a result, which may be anybody's: only plain files of it are read, from copies."""
        self._do(lambda: self._tell(folder))

    def end(self, *, ok: bool) -> None:
        if self._tracker is not None:
            self._do(partial(self._tracker.end, ok=ok))

    def _open(self, run: Run) -> None:
        self._tracker = open_tracker(self._name, run)
        self._telling = Telling(self._tracker)

    def _tell(self, folder: Path) -> None:
        if self._telling is None:
            return
        with TemporaryDirectory(prefix="ladle-tracking-") as home:
            copies = copy_files(folder, Path(home))
            report = read_report(Path(home))
            self._telling.result(report, copies, words_of(report))

    def _do(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            self._telling = self._tracker = None
            told = str(error) if isinstance(error, CannotTrack) else f"{type(error).__name__}: {error}"
            reason = without_secrets(told).rstrip(".")
            self._hear(f"The tracker `{self._name}` was told nothing more, because it failed: {reason}.")


def copy_files(folder: Path, to: Path) -> list[Path]:
    """Copies of the files that are there, are plain files and not too large."""
    copies = []
    for name in FILES:
        content = read_plain(folder / name)
        if content is not None:
            (to / name).write_bytes(content)
            copies.append(to / name)
    return copies


def read_plain(path: Path) -> bytes | None:
    """None for what is no plain file, such as a link that leads somewhere else, and for a file that is too large."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            return None
        return file.read(MOST_BYTES)


def read_report(folder: Path) -> Mapping[str, Any]:
    """Empty where there is none that can be read."""
    try:
        report = json.loads((folder / "report.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def words_of(report: Mapping[str, Any]) -> str:
    """The report as Markdown; empty for one that cannot be written so."""
    from ladle_report import markdown

    try:
        return markdown(report)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, StopIteration):
        # Ranks wrote the report, which may be anything.
        return ""


def without_secrets(text: str) -> str:
    """One line without what the operator's environment keeps secret."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) > 5:
            text = text.replace(value, "***")
    line = " ".join(IN_URL.sub("***@", text).split())
    return line if len(line) <= MOST_CHARS else f"{line[:MOST_CHARS]}..."

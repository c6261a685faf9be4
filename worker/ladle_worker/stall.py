"""Notices an attempt that no longer makes progress: it hangs on a disk, on another rank or in a task's endless loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ladle_worker.job_folder import AttemptFolder

STAGES = (
    *("start", "fetch", "discover", "check", "evaluate", "train", "select"),
    *("diagnose", "write", "verify", "upload"),
)
"""`start` is all before the first one: torch is imported, the ranks find each other."""
DEFAULT_STALL_S = 1800.0
SECONDS = Mapping[str, float]


def read_limits(value: Any) -> Any:
    """`900,write=3600` as seconds by stage; a number without a stage is for all others. Raises ValueError."""
    if not isinstance(value, str):
        return value
    limits = {"": DEFAULT_STALL_S}
    for part in value.split(","):
        stage, _, number = part.rpartition("=")
        stage = stage.strip()
        if stage and stage not in STAGES:
            raise ValueError(f"must name stages of {', '.join(STAGES)}, but has `{stage}`")
        limits[stage] = _seconds(number)
    return limits


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    # Not NaN either.
    if not seconds > 0:
        raise ValueError(f"must hold seconds above 0, such as `900` or `900,write=3600`, but has {text!r}")
    return seconds


@dataclass
class StallWatch:
    """Looks at what the ranks write: events, log lines, and the pulse that beats while the engine works."""

    folder: AttemptFolder
    limits: SECONDS
    """By stage; `""` for all others."""
    now: Callable[[], float] = time.monotonic
    _seen: object = None
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._since = self.now()

    def limit_s(self, stage: str) -> float:
        return self.limits.get(stage or "start", self.limits[""])

    def stalled(self, stage: str) -> bool:
        """Whether nothing has moved for the limit of the stage."""
        files = (self.folder.events, self.folder.log, self.folder.pulse, self.folder.outcome)
        seen = tuple(_state(path) for path in files)
        if seen != self._seen:
            self._seen, self._since = seen, self.now()
        return self.now() - self._since > self.limit_s(stage)


def _state(path: Any) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns

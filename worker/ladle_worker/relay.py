"""Reads what rank 0 writes and sends it to Redis: events, the snapshot made from them, and the log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ladle_contracts import (
    CandidateResult,
    CandidateScored,
    EventBody,
    Progress,
    SetResult,
    StageStarted,
    StepDone,
    telemetry,
)
from ladle_contracts.events import read_event_body
from ladle_worker.claim import Claim
from ladle_worker.disk_faults import naming_disk_faults
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.rank_lines import told_by_ranks
from ladle_worker.tally import Tally

MAX_LINE_CHARS = 2_000
TAIL_LINES = 40
CHUNK_BYTES = 1 << 20


class TailedFile:
    """A file that grows. `read` returns its new complete lines, and `keep` confirms that they were sent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offset = 0
        self._read_to = 0

    def read(self, *, to_end: bool = False) -> list[str]:
        """The lines since the last `keep`. An unfinished last line is included only with `to_end`."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(CHUNK_BYTES)
        if not (to_end and len(data) < CHUNK_BYTES) and not data.endswith(b"\n"):
            whole = data.rfind(b"\n") + 1
            # A line without an end is cut, not waited for.
            data = data[:whole] if whole or len(data) < CHUNK_BYTES else data
        self._read_to = self.offset + len(data)
        text = data.decode(errors="replace")
        # Not `splitlines`, which also splits at characters that JSON allows inside a string.
        return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []

    def keep(self) -> None:
        self.offset = self._read_to

    @property
    def read_to(self) -> int:
        return self._read_to


@dataclass(frozen=True, kw_only=True)
class Report:
    """One call of `Claim.report`, which is repeated unchanged until it arrives."""

    offset: int
    progress: Progress
    bodies: list[str]
    lines: list[str]
    counted: Mapping[str, float]


class Relay:
    """One attempt's events and log on their way to Redis."""

    def __init__(self, folder: AttemptFolder, claim: Claim) -> None:
        self._events = TailedFile(folder.events)
        self._log = TailedFile(folder.log)
        self._claim = claim
        self._progress = Progress()
        self._due: Report | None = None
        self._tally = Tally(_trace_stage)
        self._counts = 0
        self.news: Callable[[], Sequence[EventBody]] = list
        """What else there is to tell, such as that a tracker has failed."""

    @property
    def stage(self) -> str:
        """The one that was told of last."""
        return self._progress.stage

    def send(self, *, to_end: bool = False) -> bool:
        """Sends what is new. False if there was nothing. Raises `DiskFault`, or `RedisError`: then the next call sends
        the same again.

        It sends exactly the same, because the first call may have arrived even if its answer did not, and Redis
        recognises a repetition only by its offset.
        """
        self._due = self._due or self._next(to_end)
        if self._due is None:
            return False
        self._claim.report(self._due.offset, self._due.progress, self._due.bodies, self._due.lines, self._due.counted)
        told_by_ranks(self._due.lines)
        self._progress = self._due.progress
        self._due = None
        self._events.keep()
        self._log.keep()
        return True

    def count_end(self, more: Mapping[str, float]) -> None:
        """Counts the last stage, and what else is known at the end. Raises as `send`."""
        while self.send(to_end=True):
            continue
        self._counts += 1
        counted = {**self._tally.end(time.monotonic()), **more}
        offset = self._events.read_to + self._log.read_to + self._counts
        self._due = Report(offset=offset, progress=self._progress, bodies=[], lines=[], counted=counted)
        self.send()

    def _next(self, to_end: bool) -> Report | None:
        with naming_disk_faults("read what the ranks write"):
            bodies = self._events.read()
            lines = [line[:MAX_LINE_CHARS] for line in self._log.read(to_end=to_end)]
        others = [event.model_dump_json() for event in self.news()]
        if not bodies and not lines and not others:
            return None
        self._counts += bool(others)
        events = [read_event_body(line) for line in bodies]
        return Report(
            # It grows with every report, so it identifies the report.
            offset=self._events.read_to + self._log.read_to + self._counts,
            progress=advance(self._progress, events),
            bodies=[*bodies, *others],
            lines=lines,
            counted=self._tally.add(events, time.monotonic()),
        )


def advance(progress: Progress, bodies: Sequence[EventBody]) -> Progress:
    """The snapshot after these events."""
    for body in bodies:
        match body:
            case StageStarted():
                progress = Progress(
                    stage=body.stage, stage_total=body.total, method=body.method, candidates=progress.candidates
                )
            case StepDone():
                progress = Progress(
                    stage=body.stage,
                    stage_done=body.step,
                    stage_total=body.total,
                    method=body.method,
                    step=body.step,
                    total_steps=body.total,
                    loss=body.loss,
                    eta_s=body.eta_s,
                    rate=body.rate,
                    unit=body.unit,
                    candidates=progress.candidates,
                )
            case CandidateScored() if _is_finite(body.candidate):
                others = tuple(known for known in progress.candidates if known.method != body.candidate.method)
                progress = progress.model_copy(update={"candidates": (*others, body.candidate)})
            case _:
                continue
    return progress


def _is_finite(candidate: CandidateResult) -> bool:
    """JSON has no other numbers: a record with one could not be read."""
    judged: list[CandidateResult | SetResult] = [candidate, *candidate.sets.values()]
    gains = [getattr(each, name) for each in judged for name in ("gain", "gain_low", "gain_high")]
    scores = [*candidate.fit.values(), *(score for each in judged for score in each.select.values())]
    return all(number is None or math.isfinite(number) for number in (*gains, *scores))


def _trace_stage(stage: str, seconds: float) -> None:
    telemetry.add_span(f"stage {stage}", time.time() - seconds, parent=telemetry.traceparent())


def log_tail(folder: AttemptFolder) -> list[str]:
    """The last lines of the attempt's log. None if it cannot be read: the reason matters more."""
    try:
        with folder.log.open("rb") as file:
            file.seek(max(0, folder.log.stat().st_size - CHUNK_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line[:MAX_LINE_CHARS] for line in lines[-TAIL_LINES:]]

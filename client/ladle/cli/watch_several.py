"""Several jobs at once: a line for each on a terminal, lines with the job's id elsewhere, JSON for programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ladle._client import Client
from ladle._errors import LadleError, NotFound, ServiceUnreachable, Unavailable
from ladle._follow import OUTAGE_S
from ladle._job import Job
from ladle.cli.console import in_lines, to_json
from ladle.cli.job_lines import JobLines
from ladle.cli.job_picture import JobPicture, Stage
from ladle.cli.job_view import pace_text
from ladle.cli.render import STATE_STYLES, duration, outcome, waits_of
from ladle.cli.watch import PER_SECOND, is_live
from ladle.cli.wording import in_flags
from ladle_contracts import TERMINAL_STATES, Event, JobRecord, JobState
from ladle_contracts.safe_text import one_line
from ladle_report.gains import better

LOOK_S, LOOK_S_PER_JOB = 1.0, 0.05
ASK_S = 2.0
"""How often it is asked why jobs wait, and for new ones."""
WIDE, MIDDLING, NARROW = 110, 76, 48
"""From how many columns on a row says what is best so far, the whole pace, and the stage."""


@dataclass
class Watched:
    """One of the jobs."""

    job: Job
    picture: JobPicture
    after: str | None = None
    record: JobRecord | None = None
    """Once it has ended."""
    is_gone: bool = False
    """Whether the service has forgotten it."""
    lines: JobLines = field(init=False)

    def __post_init__(self) -> None:
        self.lines = JobLines(self.picture)

    @property
    def is_over(self) -> bool:
        return self.record is not None or self.is_gone


Tell = Callable[[Watched, Event, str | None], None]
"""Gets a job, an event as JSON, and its line for a log if it has one."""


class Several:
    """Jobs that are followed together. With `new_ones` also those that are submitted later."""

    def __init__(self, client: Client, records: Iterable[JobRecord], *, new_ones: bool = False) -> None:
        self._client = client
        self._new_ones = new_ones
        self._asked_at = float("-inf")
        self.jobs: dict[str, Watched] = {}
        newest = next(client.jobs(), None) if new_ones else None
        self._newest = newest.created_at if newest is not None else None
        self._passed_over = {newest.id} if newest is not None else set()
        for record in records:
            self._add(record)

    @property
    def running(self) -> list[Watched]:
        """Those that have not ended."""
        return [each for each in self.jobs.values() if not each.is_over]

    @property
    def is_over(self) -> bool:
        """Whether all have ended and no new ones are awaited."""
        return not self._new_ones and not self.running

    @property
    def pause_s(self) -> float:
        """Between two looks. The more jobs, the longer, so that the service does not refuse the requests."""
        return max(LOOK_S, LOOK_S_PER_JOB * len(self.running))

    def look(self, tell: Tell) -> None:
        """Asks the service once for each job."""
        self._ask()
        for each in self.running:
            try:
                for event in each.job.events(follow=False, after=each.after):
                    each.after = event.id
                    tell(each, event, each.lines.take(in_lines(event)))
                if each.picture.is_over:
                    each.record = each.job.status()
            except NotFound:
                each.is_gone = True

    def _ask(self) -> None:
        if time.monotonic() - self._asked_at < ASK_S:
            return
        self._asked_at = time.monotonic()
        if self._new_ones:
            for record in reversed(self._newer()):
                self._add(record)
        for each in self.running:
            if each.picture.state == JobState.QUEUED:
                with suppress(NotFound):
                    each.picture.waits = waits_of(in_lines(each.job.status()))

    def _newer(self) -> list[JobRecord]:
        """Those that were submitted since the newest that is known, the newest first."""
        since = self._newest
        records = takewhile(lambda each: since is None or each.created_at >= since, self._client.jobs())
        return [record for record in records if record.id not in self.jobs.keys() | self._passed_over]

    def _add(self, record: JobRecord) -> None:
        self.jobs[record.id] = Watched(self._client.job(record.id), JobPicture.of(in_lines(record)))
        self._newest = max(self._newest or record.created_at, record.created_at)


class SeveralView:
    """A row for each job that has not ended. The others were told above it."""

    def __init__(self, several: Several) -> None:
        self._several = several

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As many rows as the terminal has room for."""
        jobs = self._several.running
        room = max(1, console.size.height - 3)
        yield self._table(jobs[:room], options.max_width)
        if len(jobs) > room:
            yield Text(f"and {len(jobs) - room} more", style="dim")
        if not jobs:
            yield Text("No job is unfinished. New ones are shown here. Ctrl-C ends this.", style="dim")

    def _table(self, jobs: Sequence[Watched], width: int) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim", show_header=bool(jobs))
        table.add_column("job", no_wrap=True)
        table.add_column("state", no_wrap=True)
        if width >= NARROW:
            table.add_column("stage", no_wrap=True, overflow="ellipsis")
        if width >= WIDE:
            table.add_column("best so far", no_wrap=True, overflow="ellipsis")
        for each in jobs:
            picture = each.picture
            row: list[RenderableType] = [picture.job_id, Text(picture.state, STATE_STYLES.get(picture.state, ""))]
            row += [stage_text(picture, width)] if width >= NARROW else []
            row += [best_text(picture)] if width >= WIDE else []
            table.add_row(*row)
        return table


def stage_text(picture: JobPicture, width: int) -> str:
    """`choosing coefficients: twa 24/96  12.4 steps/s  3 min left`, or why the job waits."""
    if picture.current is None:
        return picture.waits if picture.state == JobState.QUEUED else ""
    return f"{picture.current.title}  {_pace(picture.current, width)}"


def _pace(stage: Stage, width: int) -> str:
    if width >= MIDDLING or stage.eta_s is None:
        return pace_text(stage)
    return f"{duration(stage.eta_s)} left"


def best_text(picture: JobPicture) -> str:
    """`twa: 3.30 points better`"""
    leader = picture.leader
    return "" if leader is None else f"{leader.label}: {better(picture.judged_by, leader.gain or 0.0)}"


def follow_several(
    several: Several, out: Console, *, as_json: bool, pause: Callable[[float], None] = time.sleep
) -> list[JobRecord]:
    """Shows the jobs until all have ended, and returns their final records. Raises `LadleError` at the end if the
    service has forgotten one."""
    told: set[str] = set()
    with _shown(several, out, as_json=as_json) as tell:
        while True:
            _patiently(lambda: several.look(tell), pause)
            for each in several.jobs.values():
                if each.record is not None and each.job.id not in told:
                    told.add(each.job.id)
                    _tell_end(each.record, out, as_json=as_json)
            if several.is_over:
                break
            pause(several.pause_s)
    if gone := [each.job.id for each in several.jobs.values() if each.is_gone]:
        raise LadleError(one_line(f"The service no longer knows {', '.join(gone)}: somebody has deleted the record."))
    return [each.record for each in several.jobs.values() if each.record is not None]


@contextmanager
def _shown(several: Several, out: Console, *, as_json: bool) -> Iterator[Tell]:
    if as_json:
        yield lambda each, event, line: print(to_json(event), flush=True)
    elif is_live(out):
        with Live(SeveralView(several), console=out, refresh_per_second=PER_SECOND, transient=True):
            yield lambda each, event, line: None
    else:

        def tell(each: Watched, event: Event, line: str | None) -> None:
            if line and not each.picture.is_over:
                out.print(f"{each.picture.job_id}  {line}", soft_wrap=True)

        yield tell


def _patiently(look: Callable[[], None], pause: Callable[[float], None]) -> None:
    """The service may be restarting."""
    deadline = time.monotonic() + OUTAGE_S
    while True:
        try:
            return look()
        except (ServiceUnreachable, Unavailable):
            if time.monotonic() > deadline:
                raise
            pause(LOOK_S)


def _tell_end(record: JobRecord, out: Console, *, as_json: bool) -> None:
    """One line that stays."""
    if as_json:
        print(to_json(record), flush=True)
        return
    shown = in_lines(record)
    state = Text(str(shown.state), STATE_STYLES.get(str(shown.state), ""))
    out.print(Text.assemble(shown.id, "  ", state, f"  {_what_came_of(shown)}"), soft_wrap=True)


def _what_came_of(record: JobRecord) -> str:
    """Of a job that has ended: the gain and the folder, or why there is none."""
    if record.result is not None:
        return f"{outcome(record)}  {record.result.folder}"
    if record.state == JobState.FAILED:
        return f"{in_flags(record.message or '')} [{record.reason}]"
    return in_flags(record.message or "")


def unfinished(client: Client) -> list[JobRecord]:
    """All jobs of the caller that have not ended, the oldest first."""
    states = [state for state in JobState if state not in TERMINAL_STATES]
    found = {record.id: record for state in states for record in client.jobs(state=state)}
    return sorted(found.values(), key=lambda record: record.created_at)


def named(client: Client, job_ids: Sequence[str]) -> list[JobRecord]:
    """The records of these jobs, each once. Raises `NotFound` for the first one that is not there."""
    return [client.job(job_id).status() for job_id in dict.fromkeys(job_ids)]

"""Several jobs at once: a line for each on a terminal, lines with the job's id elsewhere, JSON for programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ladle._client import Client
from ladle._errors import ServiceUnreachable, Unavailable
from ladle._follow import OUTAGE_S
from ladle._job import Job
from ladle.cli.console import in_lines, to_json
from ladle.cli.job_lines import JobLines
from ladle.cli.job_picture import JobPicture, Stage
from ladle.cli.job_view import pace_text
from ladle.cli.render import STATE_STYLES, duration, outcome, waits_of
from ladle.cli.watch import PER_SECOND, is_live
from ladle.cli.wording import in_flags
from ladle_contracts import TERMINAL_STATES, JobRecord, JobState
from ladle_report.gains import better

LOOK_S = 1.0
ASK_S = 2.0
"""How often it is asked why jobs wait, and for new ones."""
WIDE, MIDDLING = 110, 76
"""From how many columns on a row says what is best so far, and the whole pace."""


@dataclass
class Watched:
    """One of the jobs."""

    job: Job
    picture: JobPicture
    after: str | None = None
    record: JobRecord | None = None
    """Once it has ended."""
    lines: JobLines = field(init=False)

    def __post_init__(self) -> None:
        self.lines = JobLines(self.picture)

    @property
    def is_over(self) -> bool:
        return self.record is not None


class Several:
    """Jobs that are followed together. Looks at all of them once per `look`.

    `say` is told each line for a log, and the end of each job.
    """

    def __init__(self, client: Client, records: Iterable[JobRecord], *, new_ones: bool = False) -> None:
        self._client = client
        self._new_ones = new_ones
        self._newest: datetime | None = None
        self._asked_at = float("-inf")
        self.jobs: dict[str, Watched] = {}
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

    def look(self, tell: Callable[[Watched, str, str | None], None]) -> None:
        """Asks the service once for each job. `tell` gets a job, an event as JSON, and its line if it has one."""
        self._ask()
        for each in self.running:
            for event in each.job.events(follow=False, after=each.after):
                each.after = event.id
                tell(each, to_json(event), each.lines.take(in_lines(event)))
            if each.picture.is_over:
                each.record = each.job.status()

    def _ask(self) -> None:
        if time.monotonic() - self._asked_at < ASK_S:
            return
        self._asked_at = time.monotonic()
        if self._new_ones:
            newest = self._newest
            records = self._client.jobs()
            for record in [*takewhile(lambda each: newest is None or each.created_at >= newest, records)][::-1]:
                if record.id not in self.jobs and record.state not in TERMINAL_STATES:
                    self._add(record)
        for each in self.running:
            if each.picture.state == JobState.QUEUED:
                each.picture.waits = waits_of(in_lines(each.job.status()))

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
        table.add_column("stage", no_wrap=True, overflow="ellipsis")
        if width >= WIDE:
            table.add_column("best so far", no_wrap=True, overflow="ellipsis")
        for each in jobs:
            picture = each.picture
            row: list[RenderableType] = [
                picture.job_id,
                Text(picture.state, STATE_STYLES.get(picture.state, "")),
                stage_text(picture, width),
            ]
            table.add_row(*row, *([best_text(picture)] if width >= WIDE else []))
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
    """Shows the jobs until all have ended, and returns their final records."""
    with _shown(several, out, as_json=as_json) as tell:
        while True:
            ended = {each.job.id for each in several.jobs.values() if each.is_over}
            _patiently(lambda: several.look(tell), pause)
            for each in several.jobs.values():
                if each.record is not None and each.job.id not in ended:
                    _tell_end(each.record, out, as_json=as_json)
            if several.is_over:
                return [each.record for each in several.jobs.values() if each.record is not None]
            pause(LOOK_S)


@contextmanager
def _shown(several: Several, out: Console, *, as_json: bool) -> Iterator[Callable[[Watched, str, str | None], None]]:
    if as_json:
        yield lambda each, event, line: print(event, flush=True)
    elif is_live(out):
        with Live(SeveralView(several), console=out, refresh_per_second=PER_SECOND, transient=True):
            yield lambda each, event, line: None
    else:

        def tell(each: Watched, event: str, line: str | None) -> None:
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
    why = f"{in_flags(shown.message)} [{shown.reason}]" if shown.message and shown.result is None else outcome(shown)
    where = f"  {shown.result.folder}" if shown.result is not None else ""
    out.print(Text.assemble(shown.id, "  ", state, f"  {why}{where}"), soft_wrap=True)


def unfinished(client: Client) -> list[JobRecord]:
    """All jobs of the caller that have not ended, the oldest first."""
    states = [state for state in JobState if state not in TERMINAL_STATES]
    found = {record.id: record for state in states for record in client.jobs(state=state)}
    return sorted(found.values(), key=lambda record: record.created_at)


def named(client: Client, job_ids: Sequence[str]) -> list[JobRecord]:
    """The records of these jobs, each once. Raises `NotFound` for the first one that is not there."""
    return [client.job(job_id).status() for job_id in dict.fromkeys(job_ids)]

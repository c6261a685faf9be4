"""A job while it runs: a live view on a terminal, plain lines elsewhere, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from rich.console import Console
from rich.live import Live

from ladle._errors import LadleError
from ladle._job import Job
from ladle.cli.console import in_lines, to_json
from ladle.cli.job_lines import JobLines
from ladle.cli.job_picture import JobPicture
from ladle.cli.job_view import JobView
from ladle.cli.render import waits_of
from ladle_contracts import JobRecord

PER_SECOND = 8
ASK_S = 2.0


def follow_job(job: Job, console: Console, *, as_json: bool) -> JobRecord:
    """`watch_job`, or for programs one event per line."""
    if not as_json:
        return watch_job(job, console)
    for event in job.events(follow=True):
        print(to_json(event), flush=True)
    return job.wait()


def watch_job(job: Job, console: Console) -> JobRecord:
    """Shows the job until it ends, and returns its final record."""
    picture = JobPicture.of(in_lines(job.status()))
    if is_live(console):
        _live(job, JobView(picture), console)
    else:
        _plain(job, JobLines(picture), console)
    return job.wait()


def is_live(console: Console) -> bool:
    """Whether what was drawn can be drawn over: not in a file, a pipe or the log of a CI run."""
    return console.is_terminal and not console.is_dumb_terminal


def _live(job: Job, view: JobView, console: Console) -> None:
    # The picture disappears when the job ends, because the summary that follows shows the same table.
    with (
        _asking_why_it_waits(job, view.picture),
        Live(view, console=console, refresh_per_second=PER_SECOND, transient=True),
    ):
        for event in job.events(follow=True):
            view.picture.take(in_lines(event))
    console.print(view.head())


@contextmanager
def _asking_why_it_waits(job: Job, picture: JobPicture) -> Iterator[None]:
    """No event says it, so the record is read now and then while the job is in the queue."""
    is_over = Event()

    def ask() -> None:
        while not is_over.wait(ASK_S):
            if picture.state == "queued":
                with suppress(LadleError):
                    picture.waits = waits_of(in_lines(job.status()))

    thread = Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()


def _plain(job: Job, lines: JobLines, console: Console) -> None:
    console.print(f"job {lines.picture.job_id}")
    for event in job.events(follow=True):
        if line := lines.take(in_lines(event)):
            console.print(line, soft_wrap=True)

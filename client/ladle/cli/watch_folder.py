"""`ladle watch-folder`: one row for each average that is made while a training goes on."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.live import Live

from ladle._client import Client
from ladle._errors import LadleError
from ladle._follow import result_of_job
from ladle._job import Job
from ladle._spec import absolute, build_inspection
from ladle.cli.console import SafeConsole, in_lines, to_json
from ladle.cli.installed import inspect_here, prefers_service
from ladle.cli.job_flags import INSPECT_FLAGS, JobArguments
from ladle.cli.job_picture import JobPicture
from ladle.cli.job_view import JobView
from ladle.cli.local import Stopped, stoppable
from ladle.cli.render import number
from ladle.cli.stack import StackOptions, need_extras, running_stack
from ladle.cli.watch_checks import Wishes, check_names, checked, checked_results, continued, sole_watch
from ladle.cli.wording import in_flags
from ladle.curve import CURVE_FILE, CurvePoint, append, point_of
from ladle.watching.keep import best_of, delete_others
from ladle.watching.picture import PICTURE_FILE, draw
from ladle.watching.ready import Ready
from ladle.watching.watch import Watch
from ladle_contracts import Inspection, JobRecord
from ladle_contracts.run_names import run_of
from ladle_contracts.safe_text import one_line
from ladle_report.gains import better, better_between

COLUMNS = (("step", 10), ("checkpoints", 11), ("last", 9), ("best", 9), ("average", 9), ("against best", 21))
INTERVAL = "95 % interval"
NONE_BETTER = "no average is better"
RESULTS = Path("ladle-results")


@dataclass(kw_only=True)
class Show:
    """Where everything is shown: rows and JSON on `out`, words about them on `err`."""

    out: SafeConsole
    err: SafeConsole
    as_json: bool
    _has_head: bool = False

    def say(self, text: str) -> None:
        self.err.say(in_flags(text))

    def row(self, point: CurvePoint) -> None:
        if self.as_json:
            print(to_json(asdict(point)), flush=True)
            return
        if not self._has_head:
            self._has_head = True
            self.out.say(f"{point.metric} on the select split, which trains nothing:")
            self.out.say("  ".join([*(name.rjust(width) for name, width in COLUMNS), INTERVAL]))
        self.out.say(row_of(point))


def watch_folder(job: JobArguments, wishes: Wishes, show: Show) -> bool:
    """Until nobody writes into the folder any more, or a signal. Whether there is a result."""
    folder = checked(job)
    results = checked_results(wishes.results or RESULTS / f"{run_of(str(folder)) or 'watched'}-curve", folder)
    check_names(job, wishes)
    with sole_watch(results):
        points = continued(results / CURVE_FILE, folder)
        try:
            with stoppable(), ExitStack() as stack:
                _introduce(points, folder, show)
                averager = Averager(job=job, wishes=wishes, folder=folder, results=results, show=show, stack=stack)
                for point in averager.watch(points[-1].taken if points else {}).points():
                    points.append(point)
                    _keep(points, results, show, keep_all=wishes.keep_all)
                    show.row(point)
        except Stopped:
            raise KeyboardInterrupt from None
        finally:
            _sum_up(points, results, show)
    return bool(points)


@dataclass(kw_only=True)
class Averager:
    """Inspects the folder and runs the jobs: on a service that is named, or on this machine with a stack that starts
    for the first average and stays."""

    job: JobArguments
    wishes: Wishes
    folder: Path
    results: Path
    show: Show
    stack: ExitStack
    """Ends what was started."""
    _client: Client | None = None
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if prefers_service(self.wishes.url):
            self._client = self.stack.enter_context(Client(self.wishes.url, self.wishes.token))
        else:
            need_extras()

    def watch(self, averaged: Mapping[str, float]) -> Watch:
        return Watch(
            folder=self.folder,
            inspect=self.inspect,
            average=self.average,
            averaged=averaged,
            every=self.wishes.every,
            pause_s=self.wishes.pause_s,
            idle_s=self.wishes.idle_s,
            say=self.show.say,
            sleep=self._sleep,
        )

    def inspect(self) -> Inspection:
        options = {name: value for name, value in self.job.options.items() if name in _INSPECTED}
        if self._client is not None and prefers_service(self.wishes.url):
            return self._client.inspect(self.folder, **options)
        with self.show.err.status("looking at headers ..."):
            return inspect_here(build_inspection(self.folder, options))

    def average(self, ready: Ready) -> CurvePoint:
        """Raises JobFailed, JobCancelled, or what the service says."""
        options = {**self.job.options, "checkpoints": ready.filters(self.job.options.get("checkpoints", {}))}
        job = self._service().submit(self.folder, self.job.val_set, **options)
        result = result_of_job(_followed(job, self.show))
        for warning in result.warnings:
            if warning not in self._told:
                self._told.add(warning)
                self.show.say(f"! {warning}")
        return point_of(result, job.id, step=ready.last_step, taken=ready.taken, ckpt_dir=str(self.folder))

    def _service(self) -> Client:
        if self._client is None:
            state = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="ladle-"))) / "stack"
            roots = [absolute(path) for path in self.job.inputs]
            options = StackOptions(roots=roots, results=self.results, state=state)
            with self.show.err.status("starting the stack ..."):
                started = self.stack.enter_context(running_stack(options, self.show.err.say))
            self._client = self.stack.enter_context(started.client())
        return self._client

    def _sleep(self, seconds: float) -> None:
        with self.show.err.status(f"watching {one_line(str(self.folder))} ..."):
            time.sleep(seconds)


_INSPECTED = {flag.path.partition(".")[0] for flag in INSPECT_FLAGS}


def _followed(job: Job, show: Show) -> JobRecord:
    try:
        if not show.out.is_terminal or show.as_json:
            return job.wait()
        view = JobView(JobPicture(job.id))
        with Live(view, console=show.out, refresh_per_second=10, transient=True):
            for event in job.events(follow=True):
                view.picture.take(in_lines(event))
        return job.wait()
    except Stopped:
        with suppress(LadleError, TimeoutError):
            job.cancel()
            job.wait(timeout=10)
        raise


def _keep(points: list[CurvePoint], results: Path, show: Show, *, keep_all: bool) -> None:
    """Writes the curve, and deletes what nobody needs any more."""
    append(results / CURVE_FILE, points[-1])
    try:
        draw(points, results / PICTURE_FILE)
        if not keep_all:
            delete_others(points)
    except OSError as error:
        show.say(f"! The picture or an older result could not be written or deleted: {error}")


def _introduce(points: list[CurvePoint], folder: Path, show: Show) -> None:
    show.say(f"Watching `{folder}`. Ctrl-C stops it.")
    if not points:
        return
    show.say(f"It continues the curve of {len(points)} averages.")
    for point in [] if show.as_json else points:
        show.row(point)


def row_of(point: CurvePoint) -> str:
    """The table grows while a training goes on, so each row is a line of its own."""
    is_best = point.method == "best"
    cells = (
        "-" if point.step is None else str(point.step),
        str(point.checkpoints),
        *map(number, (point.last, point.best, point.average)),
        NONE_BETTER if is_best else better(point.metric, point.gain),
    )
    shown = [cell.rjust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True)]
    return "  ".join(
        [*shown, "" if is_best else better_between(point.metric, point.gain_low, point.gain_high)]
    ).rstrip()


def _sum_up(points: list[CurvePoint], results: Path, show: Show) -> None:
    if not points:
        show.say("No average was made.")
        return
    newest, best = points[-1], best_of(points)
    show.say(f"Newest average: {newest.folder}")
    show.say(f"Best average:   {best.folder} ({best.metric} {number(best.average)})")
    show.say(f"Curve:          {results / PICTURE_FILE}, {results / CURVE_FILE}")

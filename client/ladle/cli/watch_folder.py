"""`ladle watch-folder`: one row for each average that is made while a training goes on."""

from __future__ import annotations

import fcntl
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.live import Live

from ladle._client import Client
from ladle._errors import LadleError
from ladle._follow import result_of_job
from ladle._job import Job
from ladle._spec import absolute, build_inspection
from ladle.cli.console import SafeConsole, in_lines, to_json
from ladle.cli.gains import better, better_between
from ladle.cli.installed import inspect_here, installed_catalog, prefers_service
from ladle.cli.job_flags import INSPECT_FLAGS, JobArguments, WrongUsage
from ladle.cli.local import Stopped, stoppable
from ladle.cli.render import number
from ladle.cli.stack import StackOptions, need_extras, running_stack
from ladle.cli.watch import View
from ladle.cli.wording import in_flags
from ladle.curve import CURVE_FILE, CurvePoint, append, point_of, read
from ladle.watching.keep import best_of, delete_others
from ladle.watching.picture import PICTURE_FILE, draw
from ladle.watching.ready import Ready
from ladle.watching.watch import Watch
from ladle_contracts import Inspection, JobRecord
from ladle_contracts.far_urls import is_url
from ladle_contracts.output_names import run_of
from ladle_contracts.roots import GLOB
from ladle_contracts.safe_text import one_line

COLUMNS = (("step", 10), ("checkpoints", 11), ("last", 9), ("best", 9), ("average", 9), ("against best", 21))
INTERVAL = "95 % interval"
NONE_BETTER = "no average is better"
LOCK_FILE = ".watch.lock"
RESULTS = Path("ladle-results")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the flags of the watch itself say."""

    every: int
    pause_s: float
    idle_s: float | None
    keep_all: bool
    results: Path | None
    url: str | None
    token: str | None


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
    with _sole_watch(results):
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


def checked(job: JobArguments) -> Path:
    """The folder. Raises `WrongUsage` for what waiting does not mend."""
    folder = job.ckpt_dir
    if not isinstance(folder, Path):
        raise WrongUsage("`--also` is not for `ladle watch-folder`, which watches one folder.")
    shown = one_line(str(folder))
    if is_url(folder):
        raise WrongUsage(f"`CKPT_DIR` must be a folder on this machine to be watched, but is `{shown}`.")
    here = Path(absolute(folder))
    if not here.exists() and GLOB.search(here.name):
        raise WrongUsage(f"`CKPT_DIR` must be one folder, but is the glob `{shown}`.")
    if here.exists() and not here.is_dir():
        raise WrongUsage(f"`CKPT_DIR` must be a folder, but `{shown}` is a file.")
    if not here.parent.is_dir():
        raise WrongUsage(f"`CKPT_DIR` must be in a folder that exists, but `{one_line(str(here.parent))}` does not.")
    if job.options.get("output", {}).get("name") is not None:
        raise WrongUsage("`--output` names one result, but a watch makes several. Leave it out, or use `--results`.")
    return here


def checked_results(results: Path, folder: Path) -> Path:
    if results.resolve().is_relative_to(folder.resolve()):
        raise WrongUsage(
            f"`--results` must be outside of `CKPT_DIR`, so that no average is taken for a checkpoint, but is "
            f"`{one_line(str(results))}`."
        )
    return results.absolute()


def continued(path: Path, folder: Path) -> list[CurvePoint]:
    """The points of an earlier watch of this folder. Raises `WrongUsage` for those of something else."""
    try:
        points = read(path)
    except (OSError, ValueError) as error:
        raise WrongUsage(
            f"The curve cannot be continued: {one_line(str(error))} Choose another `--results`."
        ) from error
    other = next((point.ckpt_dir for point in points if point.ckpt_dir != str(folder)), None)
    if other is not None:
        raise WrongUsage(
            f"`--results` must be a folder of its own for each `CKPT_DIR`, but `{one_line(str(path))}` is the curve of "
            f"`{one_line(other)}`."
        )
    return points


@contextmanager
def _sole_watch(results: Path) -> Iterator[None]:
    """Two would average the same and delete each other's results. The kernel releases the lock."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        file = (results / LOCK_FILE).open("a")
    except OSError as error:
        raise WrongUsage(f"`--results` must be a folder that can be written, but is not: {error}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongUsage(
                f"Another `ladle watch-folder` is writing to `{one_line(str(results))}`. Choose another `--results`."
            ) from None
        yield


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
        """Raises `WrongUsage` for a method or a task that does not exist: the first checkpoint may be hours away."""
        self._check_names()
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

    def _check_names(self) -> None:
        named = {part: self.job.options.get(part, {}).get("name") for part in ("method", "task")}
        if not any(named.values()):
            return
        known = self._client or installed_catalog()
        for part, name in named.items():
            infos = known.methods if part == "method" else known.tasks
            names = [info.name for info in (infos() if callable(infos) else infos)]
            if name is not None and name not in names:
                raise WrongUsage(f"`--{part}` must be one of {', '.join(names)}, but is `{one_line(name)}`.")

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
        view = View(job.id)
        with Live(view, console=show.out, refresh_per_second=10, transient=True):
            for event in job.events(follow=True):
                view.take(in_lines(event))
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

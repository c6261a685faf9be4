"""`ladle up` and `ladle run`: your own stack."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import httpx2
from rich.text import Text

from ladle._errors import LadleError
from ladle._job import Job
from ladle._spec import CkptDir, absolute, build_spec
from ladle._stack_file import Stack, StackTaken, sole_stack
from ladle.cli.console import SafeConsole, Steps, in_lines
from ladle.cli.dashboard import login_link, open_dashboard
from ladle.cli.inspection_view import short_form
from ladle.cli.installed import InputCheck
from ladle.cli.stack import (
    LocalStack,
    StackError,
    StackOptions,
    configured_redis,
    default_state,
    need_extras,
    running_stack,
)
from ladle.cli.watch import follow_job
from ladle_contracts import TERMINAL_STATES, Inspection, JobRecord, JobSpec
from ladle_contracts.far_urls import OVER_HTTP, BadUrl, as_url, is_url, local_path, parse_url, shown_url
from ladle_contracts.safe_text import one_line

UNKNOWN_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")
"""What `Path("gcs://bucket")` begins with."""


class Stopped(BaseException):
    """A signal asked this program to end. Not an Exception, so that only the stack's own end catches it."""


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise `Stopped` once. A second signal does not interrupt the end that follows."""

    def stop(number: int, frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stay_up(
    roots: Sequence[Path], results: Path, port: int, *, opens: bool = False, out: SafeConsole, err: SafeConsole
) -> int:
    """The exit status of `ladle up`: 0 if it was asked to end, 1 if a part cannot start or ends again and again.

    `opens` is whether a browser is to show the dashboard.
    """
    options = StackOptions(
        roots=[_existing(root) for root in roots],
        results=_results(results),
        state=default_state(),
        port=port,
        redis_url=configured_redis(),
    )
    try:
        with _sole_stack() as announce, stoppable():
            stack = LocalStack(options, say=out.say)
            try:
                with out.status("starting Redis, the service and a worker ..."):
                    stack.start()
                announce(Stack(url=stack.url, token=stack.token, pid=os.getpid()))
                _introduce(stack, out)
                if opens:
                    _open(stack.url, stack.token, err)
                while True:
                    time.sleep(60)
            except Stopped:
                stack.check()
                out.print("stopping ...", style="dim")
                return 0
            finally:
                stack.stop()
    except _AlreadyUp as error:
        err.print(str(error), style="red")
        if error.stack.token is not None:
            _say_dashboard(error.stack.url, error.stack.token, out)
            if opens:
                _open(error.stack.url, error.stack.token, err)
        return 1
    except LadleError as error:
        err.print(str(error), style="red")
        return 1


def run_once(
    ckpt_dir: CkptDir,
    val_set: Path | Mapping[str, Path],
    options: Mapping[str, Any],
    roots: Sequence[Path],
    results: Path,
    *,
    out: SafeConsole,
    err: SafeConsole,
    as_json: bool,
) -> JobRecord:
    """Runs one job on a private stack and returns its final record. A signal cancels the job first.

    Input that the job would refuse is refused before it is submitted.
    """
    need_extras()
    place = _results(results)
    with tempfile.TemporaryDirectory(prefix="ladle-") as state:
        stack_options = StackOptions(
            roots=[absolute(root) for root in roots], results=place, state=Path(state) / "stack"
        )
        # What is far is looked at by the job itself, which fetches it.
        spec = None if any(map(is_url, roots)) else build_spec(ckpt_dir, val_set, options)
        shown = None if as_json else out
        with _stack(stack_options, spec, shown, err) as stack, stack.client() as client:
            job = client.submit(ckpt_dir, val_set, **options)
            if not as_json:
                out.say(f"The result will be in {place}/{job.status().output_name}")
            record = _follow(job, stack, out, as_json)
            if record.state in TERMINAL_STATES:
                stack.finish(job.id)
            return record


@contextmanager
def _stack(
    options: StackOptions, spec: JobSpec | None, out: SafeConsole | None, err: SafeConsole
) -> Iterator[LocalStack]:
    """A stack that starts while the input of the job is checked, where there is a spec. Raises `Refused`."""
    steps = Steps(err)
    with stoppable(), ExitStack() as held:
        held.callback(steps.pause)
        try:
            check = None if spec is None else held.enter_context(InputCheck(spec, options.results_folder))
            look = partial(_look, check, out, steps)
            with running_stack(options, err.say, steps.begin, meanwhile=look) as stack:
                steps.pause()
                yield stack
        except Stopped:
            raise KeyboardInterrupt from None


def _look(check: InputCheck | None, out: SafeConsole | None, steps: Steps) -> None:
    """Shows what is there, and raises `Refused` where the job would."""
    if check is None:
        return
    steps.begin("checking the input, for which torch is imported")
    found: list[Inspection] = []
    try:
        check.finish(found.append)
    finally:
        steps.pause()
        if out is not None and found:
            out.print(short_form(in_lines(found[0])))


def _follow(job: Job, stack: LocalStack, out: SafeConsole, as_json: bool) -> JobRecord:
    try:
        return follow_job(job, out, as_json=as_json)
    except Stopped:
        stack.check()
        job.cancel()
        return job.wait(timeout=10)


class _AlreadyUp(StackError):
    def __init__(self, stack: Stack) -> None:
        super().__init__(
            f"`ladle up` is already running at {stack.url} (process {stack.pid}). Use that one, or end it with "
            f"`kill {stack.pid}`."
        )
        self.stack = stack


@contextmanager
def _sole_stack() -> Iterator[Callable[[Stack], Path]]:
    try:
        with sole_stack() as announce:
            yield announce
    except StackTaken as error:
        if error.stack is None:
            raise StackError("Another `ladle up` of yours is starting or ending. Try again in a moment.") from None
        raise _AlreadyUp(error.stack) from None


def _existing(root: Path) -> Path | str:
    if (url := as_url(root)) is not None:
        return url
    if not root.is_dir():
        raise StackError(one_line(f"`--root` must be an existing folder, but `{root}` is not."))
    return root.resolve()


def _results(results: Path) -> Path | str:
    """Raises `StackError` for an address that cannot be used."""
    # Of a scheme that nobody knows too: `gcs://bucket` is no folder `gcs:`.
    text = as_url(results) or UNKNOWN_SCHEME.sub(r"\1://", str(results))
    if not (url := as_url(text)):
        return results.absolute()
    try:
        if (local := local_path(url)) is not None:
            return Path(local)
        if parse_url(url).scheme not in OVER_HTTP:
            return str(parse_url(url))
        why = "nothing can be written over HTTP"
    except BadUrl as error:
        why = str(error)
    raise StackError(
        one_line(f"`--results` must be a folder or an address to write to, but is `{shown_url(url)}`: {why}.")
    )


def _say_dashboard(url: str, token: str, out: SafeConsole) -> None:
    """Whoever sees this terminal may use the stack. A log file is read by others, too."""
    if out.is_terminal:
        out.say(f"  dashboard  {login_link(url, token)}")
    else:
        out.say(f"  dashboard  {url}  (`ladle up` in a terminal shows the address that logs you in)")


def _open(url: str, token: str, err: SafeConsole) -> None:
    try:
        if open_dashboard(url, token):
            return
        why = "there is no browser here"
    except (httpx2.HTTPError, OSError) as error:
        why = str(error)
    err.print(one_line(f"The dashboard cannot be opened: {why}. Open the address above."), style="yellow")


def _introduce(stack: LocalStack, out: SafeConsole) -> None:
    options = stack.options
    redis = "from the environment" if options.redis_url else f"{stack.redis_url} (pid {stack.processes['redis'].pid})"
    out.print(Text.assemble(("Ladle is running.", "bold green"), " Ctrl-C stops it."))
    _say_dashboard(stack.url, stack.token, out)
    out.say(f"  service    {stack.url}  (pid {stack.processes['service'].pid})")
    out.say(f"  worker     node `{stack.node}`  (pid {stack.processes['worker'].pid})")
    out.say(f"  redis      {redis}")
    out.say(f"  roots      {', '.join(str(root) for root in options.roots)}")
    out.say(f"  results    {options.results}")
    out.say(f"  logs       {options.state}")
    hint = ("ladle submit CKPT_DIR VAL_SET", "bold")
    out.print(Text.assemble("Your clients find it by themselves. Try: ", hint), soft_wrap=True)

"""The commands about results: their report as a page, and two of them side by side."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ladle._errors import ConfigurationError, LadleError, NotFound
from ladle._reports import REPORT_FILE, NotAResult, read_report
from ladle.cli import panels
from ladle.cli.arguments import Token, Url
from ladle.cli.completion import complete_result
from ladle.cli.console import SafeGroup, err, out
from ladle.cli.job_flags import WrongUsage
from ladle.cli.showing import service_client
from ladle_contracts.far_urls import is_url
from ladle_contracts.safe_text import one_line

app = typer.Typer(cls=SafeGroup)

RESULT_HELP = "A result's folder, its `report.json`, or the id of a job that has succeeded."
ResultArgument = Annotated[str, typer.Argument(metavar="RESULT", help=RESULT_HELP, autocompletion=complete_result)]
OpenIt = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]


class NoReport(LadleError):
    """There is nothing to show, or nowhere to put it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclass(frozen=True)
class Result:
    """A result on this machine."""

    folder: Path
    report: Any


@app.command(rich_help_panel=panels.RESULTS)
def report(
    result: ResultArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the page to this file instead of `report.html` in the result's folder."
        ),
    ] = None,
    open_it: OpenIt = False,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw candidates and merge curve here. No page is written.")
    ] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print it as Markdown. No page is written.")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Write the report of a result as one page, and say what came out. Nothing else in the folder is touched.

    Example: `ladle report ladle-results/resnet-auto-3f9a2c01be --open`
    """
    from ladle_report import answer, markdown, page

    if (plot or as_markdown) and (output or open_it):
        raise WrongUsage("`--plot` and `--markdown` write no page, so they take no `--output` and no `--open`.")
    found = _find(result, url, token)
    with _known_kind(found):
        said = answer(found.report)
        if as_markdown:
            out.print(markdown(found.report).rstrip(), soft_wrap=True)
        elif plot:
            out.print(said)
            _plot(found.report)
        else:
            target = output or found.folder / _page_file()
            text = page(found.report, folder=None if output is None else str(found.folder))
            _write(target, text)
            out.say(said)
            out.say(str(target))
            _open(target, open_it)


@app.command(rich_help_panel=panels.RESULTS)
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=RESULT_HELP, autocompletion=complete_result)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.", autocompletion=complete_result)],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the comparison to this file as a page.")
    ] = None,
    open_it: OpenIt = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Show two results side by side: what came out, the candidates, the coefficients, and how the jobs differ.

    Example: `ladle compare ladle-results/run-a ladle-results/run-b --output compare.html`
    """
    from ladle.cli.report_view import comparison_view
    from ladle_report import comparison, comparison_page

    if open_it and output is None:
        raise WrongUsage("`--open` must stand beside `--output`, which names the page that is opened.")
    both = _find(first, url, token), _find(second, url, token)
    names = _names(both)
    with _known_kind(*both):
        if output is None:
            out.print(comparison_view(comparison(both[0].report, both[1].report, names)))
            return
        _write(output, comparison_page(both[0].report, both[1].report, names))
    out.say(str(output))
    _open(output, open_it)


def _page_file() -> str:
    from ladle_report import PAGE_FILE

    return PAGE_FILE


def _names(both: tuple[Result, Result]) -> tuple[str, str]:
    """Of their folders; with the folder above where both are called the same."""
    first, second = (result.folder.absolute() for result in both)
    if first.name != second.name:
        return first.name, second.name
    return f"{first.parent.name}/{first.name}", f"{second.parent.name}/{second.name}"


def _find(result: str, url: str | None, token: str | None) -> Result:
    """What is there as a path is one; anything else is the id of a job."""
    if is_url(result):
        raise WrongUsage("`RESULT` must be on this machine, but is an address. Copy the folder here first.")
    path = Path(result).expanduser()
    if os.path.lexists(path):
        return _read(path.parent if path.name == REPORT_FILE and not path.is_dir() else path)
    if "/" in result or result.endswith(".json"):
        raise WrongUsage(f"`{one_line(result)}` must exist, but does not. Look for a typing mistake.")
    return _read(_folder_of_job(result, url, token))


def _folder_of_job(job_id: str, url: str | None, token: str | None) -> Path:
    from ladle._follow import result_of_job

    with _looked_up(job_id, url, token) as client:
        record = client.job(job_id).status()
        if record.result is None and record.reason is None:
            raise NoReport(f"Job {job_id} has no result yet: it is {record.state}. `ladle watch {job_id}` shows it.")
        folder = result_of_job(record).folder
    if is_url(folder) or not Path(folder).is_dir():
        raise NoReport(
            f"The result of job {job_id} is in `{folder}`, which this machine does not see. Copy the folder here, or "
            f"open {str(client.address).rstrip('/')}/jobs/{job_id}/report in a browser."
        )
    return Path(folder)


@contextmanager
def _looked_up(job_id: str, url: str | None, token: str | None) -> Iterator[Any]:
    try:
        with service_client(url, token) as client:
            yield client
    except (ConfigurationError, NotFound) as error:
        told = f"There is no folder `{one_line(job_id)}` here, so it was taken for the id of a job: {error}"
        raise NoReport(told) from error


def _read(folder: Path) -> Result:
    try:
        return Result(folder, read_report(folder.resolve())[0])
    except NotAResult as error:
        raise NoReport(f"`{folder}` must be a result of Ladle, but {error}.") from error
    except OSError as error:
        raise NoReport(f"`{folder}` cannot be read: {error.strerror or error}.") from error


@contextmanager
def _known_kind(*results: Result) -> Iterator[None]:
    """A report is whatever somebody has put there."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, StopIteration) as error:
        folders = " or ".join(f"`{result.folder}`" for result in results)
        told = f"{folders} must be a result of Ladle, but its {REPORT_FILE} is not one that Ladle wrote."
        raise NoReport(told) from error


def _plot(found: Any) -> None:
    from ladle.cli.plots import plots

    out.print()
    out.print(plots(found))


def _write(target: Path, text: str) -> None:
    """It appears at once, in the place of whatever had the name. A link is replaced, never followed."""
    try:
        descriptor, name = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}.")
        unfinished = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            unfinished.chmod(0o644 & ~_umask())
            unfinished.replace(target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise NoReport(
            f"`{target}` cannot be written: {error.strerror or error}. `--output FILE` writes the page elsewhere."
        ) from error


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def _open(target: Path, wanted: bool) -> None:
    if not wanted:
        return
    import webbrowser

    address = target.absolute().as_uri()
    if not webbrowser.open(address):
        err.say(f"No browser could be started. Open {address} yourself.")

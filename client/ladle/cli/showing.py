"""What the commands share: the client, paths that must be there, and how an answer is shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import RenderableType

from ladle.cli.console import err, in_lines, out, to_json
from ladle.cli.exits import worst
from ladle.cli.job_flags import WrongUsage
from ladle_contracts.far_urls import is_url
from ladle_contracts.safe_text import one_line


def service_client(url: str | None, token: str | None) -> Any:
    """A `ladle.Client`, imported only now."""
    from ladle._client import Client

    return Client(url, token)


def refuse_missing(paths: Iterable[Path]) -> None:
    """Only for the stack of `ladle run` or `ladle up`. Any other service may see folders that are not here."""
    for path in paths:
        if not is_url(path) and not path.expanduser().exists():
            raise WrongUsage(f"`{one_line(str(path))}` must exist, but does not. Look for a typing mistake.")


def show(value: Any, render: Any, as_json: bool) -> None:
    """A model, or several, as JSON or as `render` draws it."""
    if as_json:
        typer.echo(to_json(value, indent=2))
    else:
        view: RenderableType = render(in_lines(value))
        out.print(view)


def watch_to_the_end(job: Any, as_json: bool) -> Any:
    """Shows a job and returns its final record. After Ctrl-C it says that the job goes on."""
    from ladle.cli.watch import follow_job

    try:
        return follow_job(job, out, as_json=as_json)
    except KeyboardInterrupt:
        err.say(f"Job {job.id} continues. `ladle watch {job.id}` shows it again, `ladle cancel {job.id}` ends it.")
        raise


def watch_several(client: Any, job_ids: Sequence[str] | None, as_json: bool) -> int:
    """Shows these jobs, or all, until they end. The exit code of the worst."""
    from ladle.cli.watch_several import Several, follow_several, named, unfinished

    records = named(client, job_ids) if job_ids else unfinished(client)
    several = Several(client, records, new_ones=not job_ids)
    try:
        return worst(follow_several(several, out, as_json=as_json))
    except KeyboardInterrupt:
        if several.running:
            err.say("The jobs continue. `ladle watch --all` shows them again, `ladle cancel JOB` ends one.")
        raise


def end_with(record: Any, as_json: bool) -> None:
    """Shows the result. Raises the job's error if there is none."""
    from ladle._follow import result_of_job
    from ladle.cli.render import result_summary

    found = result_of_job(record)
    if as_json:
        typer.echo(to_json(found))
        return
    out.print()
    out.print(result_summary(in_lines(found)))

"""The commands about the jobs of a service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ladle.cli import panels
from ladle.cli.arguments import RESULTS, AsJson, Token, Url
from ladle.cli.completion import complete_job, complete_unfinished_job
from ladle.cli.console import SafeGroup, err, out, to_json
from ladle.cli.exits import FAILED
from ladle.cli.job_flags import JobArguments, JobCommand, WrongUsage, pairs, with_job_flags
from ladle.cli.showing import end_with, refuse_missing, service_client, show, watch_several, watch_to_the_end
from ladle.cli.values import complete_state, job_state, whole_number
from ladle_contracts import JobState
from ladle_contracts.far_urls import is_url
from ladle_contracts.safe_text import one_line

app = typer.Typer(cls=SafeGroup)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", autocompletion=complete_job)]


@app.command(cls=JobCommand, rich_help_panel=panels.JOBS)
@with_job_flags
def submit(
    job: JobArguments,
    watch_it: Annotated[bool, typer.Option("--watch", help="Show the job until it ends.")] = False,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Send a job to a running service and print its id.

    Example: `ladle submit checkpoints val.npz --method twa --method-option steps=200 --watch`
    """
    with service_client(url, token) as client:
        if client.address.is_own_stack:
            refuse_missing(job.inputs)
        handle = client.submit(job.ckpt_dir, job.val_set, **job.options)
        if as_json and not watch_it:
            typer.echo(to_json(handle.status(), indent=2))
            return
        if not watch_it:
            out.say(handle.id)
        if not as_json and (name := handle.status().output_name):
            err.say(f"The result's folder will be called `{name}`.")
        if watch_it:
            end_with(watch_to_the_end(handle, as_json), as_json)


@app.command(rich_help_panel=panels.JOBS)
def watch(
    job_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB", help="The ids of jobs.", autocompletion=complete_unfinished_job),
    ] = None,
    all_jobs: Annotated[
        bool, typer.Option("--all", help="Show all of your jobs that have not ended, and new ones, until Ctrl-C.")
    ] = False,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show jobs until they end: one in full, several with a line each.

    In a log file it prints plain lines, and with `--json` one event per line. It ends with the exit code of the worst
    job.

    Example: `ladle watch --all`
    """
    if all_jobs == bool(job_ids):
        raise WrongUsage("`watch` must be given the ids of jobs or `--all`, but not both. `ladle list` shows the ids.")
    with service_client(url, token) as client:
        if job_ids and len(set(job_ids)) == 1:
            end_with(watch_to_the_end(client.job(job_ids[0]), as_json), as_json)
        else:
            sys.exit(watch_several(client, job_ids, as_json))


@app.command(rich_help_panel=panels.JOBS)
def status(job_id: JobId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Show the state of a job."""
    from ladle.cli.render import record_summary

    with service_client(url, token) as client:
        record = client.job(job_id).status()
    show(record, record_summary, as_json)


@app.command("list", rich_help_panel=panels.JOBS)
def list_jobs(
    state: Annotated[
        JobState | None,
        typer.Option(
            metavar="STATE",
            parser=job_state,
            autocompletion=complete_state,
            help=f"List only jobs in this state. [{', '.join(JobState)}]",
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="List only jobs with this label. [may be repeated]"),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", parser=whole_number(1), help="List at most this many jobs.")] = 20,
    from_results: Annotated[
        bool,
        typer.Option(
            "--from-results",
            help="List the results in a folder instead, without a service: also those of jobs that it has forgotten.",
        ),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help=f"For --from-results: the folder of results. [default: {RESULTS}]"),
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from itertools import islice

    from ladle.cli.render import jobs_table

    if from_results:
        if state or label or url or token:
            raise WrongUsage(
                "`--from-results` asks no service, so it takes no `--state`, `--label`, `--url` or `--token`."
            )
        _list_results(folder or RESULTS, limit, as_json)
        return
    if folder is not None:
        raise WrongUsage(f"`{one_line(str(folder))}` must be given together with `--from-results`.")
    labels = {name: str(value) for name, value in pairs(label, "--label", plain=True).items()}
    with service_client(url, token) as client:
        records = list(islice(client.jobs(state=state, labels=labels or None), limit))
    show(records, jobs_table, as_json)


def _list_results(folder: Path, limit: int, as_json: bool) -> None:
    from ladle.cli.render import results_table
    from ladle.cli.results import find_results

    passed_over: list[str] = []
    if is_url(folder):
        raise WrongUsage("`--from-results` must list a folder of this machine, but an address is given.")
    try:
        found = find_results(folder, passed_over.append)
    except OSError as error:
        name = one_line(str(folder))
        raise WrongUsage(f"`{name}` must be a folder of results, but cannot be read: {error.strerror}.") from error
    show(found[:limit], results_table, as_json)
    for words in passed_over:
        err.say(f"passed over {words}")


@app.command(rich_help_panel=panels.JOBS)
def cancel(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", autocompletion=complete_unfinished_job)],
    url: Url = None,
    token: Token = None,
) -> None:
    """Cancel a job."""
    with service_client(url, token) as client:
        job = client.job(job_id)
        if not job.cancel():
            err.print(one_line(_why_too_late(job_id, job.status().state)), style="yellow")
            sys.exit(FAILED)
    out.say(f"Job {job_id} is being cancelled.")


def _why_too_late(job_id: str, state: JobState) -> str:
    if state is JobState.FINALIZING:
        return f"Job {job_id} is already writing its result, so it can no longer be cancelled."
    return f"Job {job_id} has already {state.past_tense}."


@app.command(rich_help_panel=panels.JOBS)
def logs(
    job_id: JobId,
    tail: Annotated[
        int, typer.Option(metavar="N", parser=whole_number(1, 2000), help="Print this many lines. [1 to 2000]")
    ] = 100,
    url: Url = None,
    token: Token = None,
) -> None:
    """Print the last lines of a job's log."""
    with service_client(url, token) as client:
        for line in client.job(job_id).logs(tail=tail):
            out.say(line.expandtabs())


@app.command(rich_help_panel=panels.JOBS)
def result(job_id: JobId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Wait until a job has ended and print its result."""
    from ladle.cli.render import result_summary

    with service_client(url, token) as client:
        found = client.job(job_id).result()
    show(found, result_summary, as_json)

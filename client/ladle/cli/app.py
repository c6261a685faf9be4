"""The commands. Each one parses, asks the client, and shows; heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from ladle._errors import JobCancelled, JobFailed, LadleError
from ladle.cli import options as spec_options
from ladle.cli.options import SpecArguments
from ladle_contracts import JobState

OK, FAILED, USAGE, CANCELLED = 0, 1, 2, 130

app = typer.Typer(
    name="ladle",
    help="One better model from a folder of checkpoints.",
    epilog="Exit codes: 0 success, 1 the job or the call failed, 2 wrong usage, 130 cancelled.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs instead of text for people.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
Url = Annotated[str | None, typer.Option(envvar="LADLE_URL", help="The service; that of `ladle up` when absent.")]
Token = Annotated[str | None, typer.Option(envvar="LADLE_TOKEN", help="The bearer token.", show_envvar=True)]

# No markup: a path or a message may hold brackets of its own.
# Into a file or a pipe tables need not be as narrow as a terminal that is not there.
_width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
out = Console(highlight=False, markup=False, emoji=False, width=_width)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


def main() -> None:
    """What the installed command runs: errors become one message and an exit code, never a traceback."""
    try:
        app()
    except JobFailed as error:
        err.print(str(error), style="red")
        sys.exit(FAILED)
    except JobCancelled as error:
        err.print(str(error), style="yellow")
        sys.exit(CANCELLED)
    except LadleError as error:
        err.print(str(error), style="red")
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(CANCELLED)


@app.command()
def run(
    ckpt_dir: spec_options.CkptDir,
    val_set: spec_options.ValSet,
    method: spec_options.Method = "auto",
    method_option: spec_options.MethodOption = None,
    task: spec_options.Task = None,
    task_option: spec_options.TaskOption = None,
    pattern: spec_options.Pattern = None,
    last: spec_options.Last = None,
    steps: spec_options.Steps = None,
    train_set: spec_options.TrainSetPath = None,
    train_set_use: spec_options.TrainSetUse = "coefficients",
    select_fraction: spec_options.SelectFraction = None,
    metric: spec_options.MetricName = None,
    output: spec_options.OutputName = None,
    dtype: spec_options.Dtype = "keep",
    max_shard_bytes: spec_options.ShardBytes = None,
    nodes: spec_options.Nodes = 1,
    ranks_per_node: spec_options.RanksPerNode = 1,
    placement: spec_options.Placement = "auto",
    precision: spec_options.Precision = "auto",
    seed: spec_options.Seed = 0,
    priority: spec_options.Priority = 0,
    label: spec_options.Labels = None,
    results: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("ladle-results"),
    as_json: AsJson = False,
) -> None:
    """Start a stack, average one folder, show it live, and take the stack down.

    Example: `ladle run runs/resnet/checkpoints data/val.npz`
    """
    from ladle.cli.local import run_once

    given = dict(locals())
    options = _spec_arguments(given).to_options()
    inputs = _inputs(ckpt_dir, val_set, train_set)
    _refuse_missing(inputs)
    record = run_once(ckpt_dir, val_set, options, inputs, results, out=out, err=err, as_json=as_json)
    _end_with(record, as_json)


@app.command()
def up(
    root: Annotated[
        list[Path] | None, typer.Option(help="A folder jobs may read; may be repeated. The current one when absent.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Where results go.")] = Path("ladle-results"),
    port: Annotated[int, typer.Option(help="The service's port on 127.0.0.1.")] = 8337,
) -> None:
    """Start the whole stack on this machine, and keep it until Ctrl-C.

    Example: `ladle up --root /data --root ~/runs`
    """
    from ladle.cli.local import stay_up

    sys.exit(stay_up(root or [Path.cwd()], results, port, out=out, err=err))


@app.command()
def submit(
    ckpt_dir: spec_options.CkptDir,
    val_set: spec_options.ValSet,
    method: spec_options.Method = "auto",
    method_option: spec_options.MethodOption = None,
    task: spec_options.Task = None,
    task_option: spec_options.TaskOption = None,
    pattern: spec_options.Pattern = None,
    last: spec_options.Last = None,
    steps: spec_options.Steps = None,
    train_set: spec_options.TrainSetPath = None,
    train_set_use: spec_options.TrainSetUse = "coefficients",
    select_fraction: spec_options.SelectFraction = None,
    metric: spec_options.MetricName = None,
    output: spec_options.OutputName = None,
    dtype: spec_options.Dtype = "keep",
    max_shard_bytes: spec_options.ShardBytes = None,
    nodes: spec_options.Nodes = 1,
    ranks_per_node: spec_options.RanksPerNode = 1,
    placement: spec_options.Placement = "auto",
    precision: spec_options.Precision = "auto",
    seed: spec_options.Seed = 0,
    priority: spec_options.Priority = 0,
    label: spec_options.Labels = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Show it until it ends.")] = False,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Send a job to a running service; prints its id.

    Example: `ladle submit checkpoints val.npz --method twa --method-option steps=200 --watch`
    """
    given = dict(locals())
    options = _spec_arguments(given).to_options()
    with _client(url, token) as client:
        if url is None:
            _refuse_missing(_inputs(ckpt_dir, val_set, train_set))
        job = client.submit(ckpt_dir, val_set, **options)
        if watch_it:
            _end_with(_watch(job, as_json), as_json)
        elif as_json:
            _print_json(job.status())
        else:
            typer.echo(job.id)


@app.command()
def watch(job_id: JobId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Show a job until it ends. With `--json`: one event a line."""
    with _client(url, token) as client:
        _end_with(_watch(client.job(job_id), as_json), as_json)


@app.command()
def status(job_id: JobId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Show what is known about a job."""
    from ladle.cli.render import record_summary

    with _client(url, token) as client:
        record = client.job(job_id).status()
    _show(record, record_summary, as_json)


@app.command("list")
def list_jobs(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only jobs with this label.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at the most.")] = 20,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from itertools import islice

    from ladle.cli.render import jobs_table

    labels = {name: str(value) for name, value in spec_options.pairs(label, "--label", plain=True).items()}
    with _client(url, token) as client:
        records = list(islice(client.jobs(state=state, labels=labels or None), limit))
    _show(records, jobs_table, as_json)


@app.command()
def cancel(job_id: JobId, url: Url = None, token: Token = None) -> None:
    """Ask for a job's end."""
    with _client(url, token) as client:
        asked = client.job(job_id).cancel()
    if not asked:
        err.print(f"Too late: job {job_id} has ended, or is moving its result to its place.", style="yellow")
        sys.exit(FAILED)
    typer.echo(f"Job {job_id} is being cancelled.")


@app.command()
def logs(
    job_id: JobId,
    tail: Annotated[int, typer.Option(min=1, max=2000, help="How many lines.")] = 100,
    url: Url = None,
    token: Token = None,
) -> None:
    """Print the end of a job's log."""
    with _client(url, token) as client:
        for line in client.job(job_id).logs(tail=tail):
            typer.echo(line)


@app.command()
def result(job_id: JobId, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Wait for a job's result and print it."""
    from ladle.cli.render import result_summary

    with _client(url, token) as client:
        found = client.job(job_id).result()
    _show(found, result_summary, as_json)


@app.command()
def methods(url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """List the methods with their options: the workers', or those of this installation where no service runs."""
    from ladle.cli.installed import catalog_part
    from ladle.cli.render import catalog_view

    _show(catalog_part("methods", url, token, err), catalog_view, as_json)


@app.command()
def tasks(url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """List the tasks, plug-ins included: the workers', or those of this installation where no service runs."""
    from ladle.cli.installed import catalog_part
    from ladle.cli.render import catalog_view

    _show(catalog_part("tasks", url, token, err), catalog_view, as_json)


@app.command()
def nodes(url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """List the worker machines."""
    from ladle.cli.render import nodes_table

    with _client(url, token) as client:
        _show(client.nodes(), nodes_table, as_json)


@app.command()
def doctor(
    root: Annotated[list[Path] | None, typer.Option(help="A folder that jobs shall read.")] = None,
    results: Annotated[Path, typer.Option(help="Where results shall go.")] = Path("ladle-results"),
    as_json: AsJson = False,
) -> None:
    """Check Redis, torch, GPU, folders and disk, and say what to fix."""
    from ladle.cli.doctor import examine

    findings = []
    for finding in examine([path.absolute() for path in root or [Path.cwd()]], results.absolute()):
        findings.append(finding)
        if not as_json:
            mark, style = ("ok", "green") if finding.ok else ("!!", "red") if finding.needed else ("--", "yellow")
            out.print(Text.assemble((mark, style), "  ", (finding.name, "bold"), "  ", finding.detail), soft_wrap=True)
            if not finding.ok and finding.fix:
                out.print(f"      {finding.fix}", style="dim", soft_wrap=True)
    if as_json:
        typer.echo(json.dumps([finding.as_json() for finding in findings], indent=2))
    sys.exit(OK if all(finding.ok or not finding.needed for finding in findings) else FAILED)


@app.command()
def version(url: Url = None, token: Token = None) -> None:
    """Print the version of this command, and of the service if one answers."""
    from importlib.metadata import version as installed

    typer.echo(f"ladle {installed('ladle')}")
    try:
        with _client(url, token) as client:
            typer.echo(f"service {client.version().version} at {client.address}")
    except LadleError as error:
        err.print(f"service: {error}", style="dim")


def _inputs(ckpt_dir: Path, val_set: Path, train_set: Path | None) -> list[Path]:
    return [ckpt_dir, val_set, *([train_set] if train_set else [])]


def _refuse_missing(paths: Iterable[Path]) -> None:
    """Only for a stack of `ladle run` or `ladle up`: any other service may see folders that are not here."""
    for path in paths:
        if not path.expanduser().exists():
            raise typer.BadParameter(f"`{path}` does not exist.")


def _client(url: str | None, token: str | None) -> Any:
    from ladle._client import Client

    return Client(url, token)


def _spec_arguments(given: dict[str, Any]) -> SpecArguments:
    from dataclasses import fields

    return SpecArguments(**{field.name: given[field.name] for field in fields(SpecArguments)})


def _watch(job: Any, as_json: bool) -> Any:
    from ladle.cli.watch import follow_job

    try:
        return follow_job(job, out, as_json=as_json)
    except KeyboardInterrupt:
        err.print(f"Job {job.id} goes on: `ladle watch {job.id}` shows it, `ladle cancel {job.id}` ends it.")
        raise


def _end_with(record: Any, as_json: bool) -> None:
    """Shows the result, or raises what the end was."""
    from ladle._follow import result_of_job
    from ladle.cli.render import result_summary

    found = result_of_job(record)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    out.print()
    out.print(result_summary(found))


def _show(value: Any, render: Any, as_json: bool) -> None:
    if as_json:
        _print_json(value)
    else:
        view: RenderableType = render(value)
        out.print(view)


def _print_json(value: Any) -> None:
    if isinstance(value, Iterable) and not hasattr(value, "model_dump"):
        typer.echo(json.dumps([item.model_dump(mode="json") for item in value], indent=2))
    else:
        typer.echo(json.dumps(value.model_dump(mode="json"), indent=2))

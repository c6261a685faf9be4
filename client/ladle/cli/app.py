"""The commands. Each one parses, asks the client and shows the answer. Heavy imports wait until they are needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.text import Text

from ladle._errors import JobCancelled, LadleError
from ladle.cli import job_commands, panels, report_commands
from ladle.cli import node as node_commands
from ladle.cli import task as task_commands
from ladle.cli import token as token_commands
from ladle.cli.arguments import RESULTS, AsJson, Token, Url
from ladle.cli.console import SafeGroup, err, out, to_json
from ladle.cli.exits import CANCELLED, EXIT_CODES, FAILED, OK
from ladle.cli.job_flags import (
    InspectArguments,
    JobArguments,
    JobCommand,
    WrongUsage,
    with_inspect_flags,
    with_job_flags,
)
from ladle.cli.push import push
from ladle.cli.showing import end_with, refuse_missing, service_client, show
from ladle.cli.values import positive_number, whole_number
from ladle.cli.webhooks import webhook_secret
from ladle.cli.wording import in_flags
from ladle_contracts import Output
from ladle_contracts.far_urls import as_url
from ladle_contracts.safe_text import one_line

EPILOG = "Exit codes:\n\n" + "\n\n".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    name="ladle",
    cls=SafeGroup,
    help="Make one better model from a folder of checkpoints.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

Results = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER", help="The folder that results are written to, or an address such as `s3://bucket/results`."
    ),
]
DTYPES: tuple[str, ...] = get_args(Output.model_fields["dtype"].annotation)

app.add_typer(job_commands.app)
app.add_typer(report_commands.app)
app.add_typer(task_commands.app, name="task", rich_help_panel=panels.HERE)
app.add_typer(node_commands.app, name="node", rich_help_panel=panels.MACHINES)
app.add_typer(token_commands.app, name="token", rich_help_panel=panels.MACHINES)
app.command(rich_help_panel=panels.RESULTS)(push)
app.command("webhook-secret", rich_help_panel=panels.MACHINES)(webhook_secret)


def main() -> None:
    """Runs the command. Errors become one message and an exit code, never a traceback."""
    try:
        app()
    except JobCancelled as error:
        _complain(error, style="yellow")
        sys.exit(CANCELLED)
    except LadleError as error:
        _complain(error, style="red")
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(CANCELLED)


def _complain(error: LadleError, style: str) -> None:
    err.print(in_flags(str(error)), style=style)


@app.command(cls=JobCommand, rich_help_panel=panels.AVERAGE)
@with_job_flags
def run(
    job: JobArguments,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Start a stack, average one folder, show the job live, and take the stack down.

    Example: `ladle run runs/resnet/checkpoints data/val.npz`
    """
    _run_here(job, job.options, results, as_json)


@app.command(cls=JobCommand, rich_help_panel=panels.AVERAGE)
@with_job_flags
def curve(
    job: JobArguments,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Draw the merge curve of a run: the best average that ends at each checkpoint, beside the checkpoint itself.

    It says where averaging pays and whether going on with the training would, and writes no model. It is `ladle run
    --kind curve`; `ladle submit --kind curve` sends it to a service.

    Example: `ladle curve runs/resnet/checkpoints data/val.npz --curve-every 5`
    """
    _run_here(job, {**job.options, "kind": "curve"}, results, as_json)


def _run_here(job: JobArguments, options: Mapping[str, Any], results: Path, as_json: bool) -> None:
    """One job on a stack of its own; ends the command as the job ended."""
    from ladle.cli.local import run_once

    refuse_missing(job.inputs)
    record = run_once(job.ckpt_dir, job.val_set, options, job.inputs, results, out=out, err=err, as_json=as_json)
    end_with(record, as_json)


@app.command(rich_help_panel=panels.AVERAGE)
@with_inspect_flags
def inspect(
    folder: InspectArguments,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="Also read up to 256 MiB of weights, and say what averaging will bring.")
    ] = False,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Say what is in a folder of checkpoints, and what a job would do with it. Opens headers only, unless asked to.

    It looks at this machine's files or, with `--url` or without the worker installed, asks a service. It ends with 0 if
    `ladle run` can begin, else with 1.

    Example: `ladle inspect runs/resnet/checkpoints --forecast`
    """
    from ladle.cli.inspection_view import inspection_view

    found = _inspect(folder, url, token, forecast=forecast)
    show(found, inspection_view, as_json)
    sys.exit(OK if found.usable else FAILED)


def _inspect(folder: InspectArguments, url: str | None, token: str | None, *, forecast: bool) -> Any:
    from ladle.cli.installed import inspect_here, prefers_service

    if prefers_service(url):
        with service_client(url, token) as client:
            return client.inspect(folder.ckpt_dir, **folder.options, forecast=forecast)
    with err.status("looking at headers ..."):
        return inspect_here(folder.request.model_copy(update={"forecast": forecast}))


@app.command(rich_help_panel=panels.AVERAGE)
def convert(  # noqa: PLR0913  # a flag each
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A checkpoint, or a folder of checkpoints.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder to make.")],
    dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="The type of the weights. [`keep`, `float32`, `bfloat16`, `float16`]")
    ] = "keep",
    max_shard_bytes: Annotated[
        int, typer.Option(metavar="BYTES", parser=whole_number(1 << 20), help="The largest size of one weights file.")
    ] = 5_000_000_000,
    pattern: Annotated[str | None, typer.Option(metavar="GLOB", help="Take only checkpoints of these names.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Leave checkpoints out. [may be repeated]")
    ] = None,
    component: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model to take where a checkpoint is made of several, such as `unet`."),
    ] = None,
    use_ema: Annotated[
        bool, typer.Option("--use-ema", help="Take the average that training kept in each file instead of the model.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write checkpoints of any layout as safetensors, with config and tokenizer. Nothing is averaged.

    One checkpoint becomes the folder OUTPUT. Several become folders in it.

    Example: `ladle convert runs/old/model.pt converted --dtype bfloat16`
    """
    from ladle.cli.installed import convert_here

    refuse_missing([source])
    if dtype not in DTYPES:
        raise WrongUsage(f"`--dtype` must be one of {', '.join(DTYPES)}, but is {dtype!r}.")
    chosen = {"pattern": pattern, "exclude": exclude or None, "component": component, "use_ema": use_ema}
    with err.status("converting ..."):
        folders = convert_here(source, output, dtype=dtype, max_shard_bytes=max_shard_bytes, **chosen)
    if as_json:
        typer.echo(to_json(folders, indent=2))
        return
    for folder in folders:
        out.say(folder)


@app.command(rich_help_panel=panels.MACHINES)
def up(
    root: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER", help="A folder that jobs may read. [may be repeated; default: the current folder]"
        ),
    ] = None,
    results: Results = RESULTS,
    port: Annotated[
        int, typer.Option(metavar="N", parser=whole_number(0, 65535), help="The port of the service on 127.0.0.1.")
    ] = 8337,
    open_it: Annotated[bool, typer.Option("--open", help="Open the dashboard in a browser.")] = False,
) -> None:
    """Start the whole stack on this machine and keep it running until Ctrl-C.

    Example: `ladle up --root /data --root ~/runs`
    """
    from ladle.cli.local import stay_up

    sys.exit(stay_up(root or [Path.cwd()], results, port, opens=open_it, out=out, err=err))


@app.command("watch-folder", cls=JobCommand, rich_help_panel=panels.AVERAGE)
@with_job_flags
def watch_folder(  # noqa: PLR0913  # a flag each
    job: JobArguments,
    every: Annotated[
        int, typer.Option(metavar="K", parser=whole_number(1), help="Average at every k-th new checkpoint.")
    ] = 1,
    stop_after_idle: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            parser=positive_number,
            help="End when nothing in the folder has changed for so long, after a last average of what is there. By "
            "default only Ctrl-C ends it.",
        ),
    ] = None,
    look_every: Annotated[
        float, typer.Option(metavar="SECONDS", parser=positive_number, help="How often to look at the folder.")
    ] = 5.0,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Keep every average. By default only the newest and the best are kept.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help=f"The folder of the averages and their curve. [default: `{RESULTS}/<run>-curve`]",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A service that averages. By default a stack is started. [env var: LADLE_URL]"
        ),
    ] = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Average a folder again and again while training still writes into it, and show the curve.

    Example: `ladle watch-folder runs/resnet/checkpoints data/val.npz --every 5`
    """
    from ladle.cli.installed import prefers_service
    from ladle.cli.watch_checks import Wishes
    from ladle.cli.watch_folder import Show
    from ladle.cli.watch_folder import watch_folder as watch_it

    if not prefers_service(url):
        # The folder itself may come later.
        refuse_missing(job.inputs[len(job.ckpt_dir) if isinstance(job.ckpt_dir, tuple) else 1 :])
    wishes = Wishes(
        every=every,
        pause_s=look_every,
        idle_s=None if stop_after_idle is None else 60 * stop_after_idle,
        keep_all=keep_all,
        results=results,
        url=url,
        token=token,
    )
    sys.exit(OK if watch_it(job, wishes, Show(out=out, err=err, as_json=as_json)) else FAILED)


@app.command(rich_help_panel=panels.HERE)
def methods(url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """List the methods and their options: those of the workers, or of this installation if no service is running."""
    from ladle.cli.installed import catalog_part
    from ladle.cli.render import catalog_view

    show(catalog_part("methods", url, token, err), catalog_view, as_json)


@app.command(rich_help_panel=panels.HERE)
def tasks(url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """List the tasks, including plug-ins: those of the workers, or of this installation if no service is running."""
    from ladle.cli.installed import catalog_part
    from ladle.cli.render import catalog_view

    show(catalog_part("tasks", url, token, err), catalog_view, as_json)


@app.command(rich_help_panel=panels.MACHINES)
def nodes(url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """List the worker machines: whether they take jobs, what they run, and what their vetting found."""
    from ladle.cli.node_view import nodes_view

    with service_client(url, token) as client:
        show(client.nodes(), nodes_view, as_json)


@app.command(rich_help_panel=panels.HERE)
def doctor(
    root: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder that jobs will read. [may be repeated; default without `--url`: the current folder]",
        ),
    ] = None,
    results: Results = RESULTS,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Check this service and its nodes instead of what is installed here."),
    ] = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Check what is installed here, or with `--url` a cluster, and say what to fix.

    Here it looks at Redis, torch, the GPU, folders, the disk, and the service if there is one. Of a cluster it looks at
    the service, the token, versions, clocks, every node, folders that `--root` names, and why jobs wait.

    Example: `ladle doctor --url https://ladle.example:8337 --root /data/runs`
    """
    findings = []
    for finding in _findings(root, results, url, token):
        findings.append(finding)
        if not as_json:
            mark, style = ("ok", "green") if finding.ok else ("!!", "red") if finding.needed else ("--", "yellow")
            name, detail = one_line(finding.name), one_line(finding.detail)
            out.print(Text.assemble((mark, style), "  ", (name, "bold"), "  ", detail), soft_wrap=True)
            if not finding.ok and finding.fix:
                out.print(f"      {one_line(finding.fix)}", style="dim", soft_wrap=True)
    if as_json:
        typer.echo(to_json([finding.as_json() for finding in findings], indent=2))
    sys.exit(OK if all(finding.ok or not finding.needed for finding in findings) else FAILED)


def _findings(root: list[Path] | None, results: Path, url: str | None, token: str | None) -> Iterator[Any]:
    from ladle.cli.doctor import examine, quick_client
    from ladle.cli.doctor_cluster import examine_service

    if url is not None:
        with quick_client(url, token) as client:
            yield from examine_service(client, root or ())
        return
    roots = [as_url(path) or path.absolute() for path in root or [Path.cwd()]]
    yield from examine(roots, as_url(results) or results.absolute())


@app.command(rich_help_panel=panels.HERE)
def version(url: Url = None, token: Token = None) -> None:
    """Print the version of this command, and that of the service if there is one."""
    from importlib.metadata import version as installed

    out.say(f"ladle {installed('ladle')}")
    try:
        with service_client(url, token) as client:
            out.say(f"service {client.version().version} at {client.address}")
    except LadleError as error:
        err.print(in_flags(f"service: {error}"), style="dim")

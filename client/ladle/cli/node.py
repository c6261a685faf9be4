"""`ladle node`: whether a worker machine takes jobs. For an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from ladle.cli.console import SafeGroup, err, in_lines, out, to_json

app = typer.Typer(
    cls=SafeGroup,
    no_args_is_help=True,
    help="Say whether a worker machine takes jobs. Needs a token of scope `admin`. `ladle nodes` shows all machines.",
)

Node = Annotated[str, typer.Argument(metavar="NODE", help="The node's id, as `ladle nodes` shows it.")]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Why, in words. `ladle nodes` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]
Url = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The service's address. By default that of `ladle up`. [env var: LADLE_URL]"),
]
Token = Annotated[str | None, typer.Option(metavar="TOKEN", help="The bearer token. [env var: LADLE_TOKEN]")]


@app.command()
def cordon(node: Node, reason: Reason = None, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Give a node no more jobs, also after it restarts. The job that it runs goes on."""
    _change("cordon", lambda client: client.cordon(node, reason=reason), url, token, as_json)


@app.command()
def drain(
    node: Node,
    now: Annotated[
        bool, typer.Option("--now", help="Hand the job that it runs back. Another node goes on where it was.")
    ] = False,
    reason: Reason = None,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Let a node become empty: it gets no more jobs, and the one that it runs ends as usual."""
    _change("drain", lambda client: client.drain(node, now=now, reason=reason), url, token, as_json)


@app.command()
def uncordon(node: Node, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Give a node jobs again, after `cordon`, `drain` or three failures in a row."""
    _change("uncordon", lambda client: client.uncordon(node), url, token, as_json)


def _change(verb: str, ask: Callable[[Any], Any], url: str | None, token: str | None, as_json: bool) -> None:
    from ladle._client import Client
    from ladle.cli.node_view import change_text

    with Client(url, token) as client:
        change = ask(client)
        left = any(node.state in ("ready", "busy") for node in client.nodes())
    if as_json:
        typer.echo(to_json(change, indent=2))
    else:
        out.say(change_text(in_lines(change), verb))
    if not left:
        err.print("No node takes jobs now. They wait until one does.", style="yellow")

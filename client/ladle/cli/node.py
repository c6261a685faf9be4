"""`ladle node`: whether a worker machine takes jobs. For an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from ladle.cli.arguments import AsJson, Token, Url
from ladle.cli.completion import complete_node
from ladle.cli.console import SafeGroup, err, in_lines, out, to_json

app = typer.Typer(
    cls=SafeGroup,
    no_args_is_help=True,
    help="Say whether a worker machine takes jobs. Needs a token of scope `admin`. `ladle nodes` shows all machines.",
)

Nodes = Annotated[
    list[str],
    typer.Argument(metavar="NODE", help="The ids of nodes, as `ladle nodes` shows them.", autocompletion=complete_node),
]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Why, in words. `ladle nodes` shows it.")]


@app.command()
def cordon(nodes: Nodes, reason: Reason = None, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Give nodes no more jobs, also after they restart. The jobs that they run go on."""
    _change("cordon", nodes, lambda client, node: client.cordon(node, reason=reason), url, token, as_json)


@app.command()
def drain(
    nodes: Nodes,
    now: Annotated[
        bool, typer.Option("--now", help="Hand the jobs that they run back. Other nodes go on where they were.")
    ] = False,
    reason: Reason = None,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Let nodes become empty: they get no more jobs, and those that they run end as usual."""
    _change("drain", nodes, lambda client, node: client.drain(node, now=now, reason=reason), url, token, as_json)


@app.command()
def uncordon(nodes: Nodes, url: Url = None, token: Token = None, as_json: AsJson = False) -> None:
    """Give nodes jobs again, after `cordon`, `drain` or three failures in a row."""
    _change("uncordon", nodes, lambda client, node: client.uncordon(node), url, token, as_json)


def _change(
    verb: str,
    nodes: Sequence[str],
    ask: Callable[[Any, str], Any],
    url: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """One after the other. A node that is not there ends it."""
    from ladle._client import Client
    from ladle.cli.node_view import change_text

    changes = []
    with Client(url, token) as client:
        for node in nodes:
            changes.append(ask(client, node))
            if not as_json:
                out.say(change_text(in_lines(changes[-1]), verb))
        left = any(node.state in ("ready", "busy") for node in client.nodes())
    if as_json:
        typer.echo(to_json(changes, indent=2))
    if not left:
        err.print("No node takes jobs now. Jobs wait until one does.", style="yellow")

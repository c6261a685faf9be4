"""The help of each command as a page, from the parser that the command itself uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from ladle.cli.app import app

ABOUT = "From the help of each command: `ladle COMMAND --help` prints the same. [The guide](command.md) explains them."


def command_page() -> str:
    """A section for each command, in the order of `ladle --help`."""
    return "\n\n".join(
        [ABOUT, *(_section(path, command) for path, command in _commands("ladle", typer.main.get_command(app)))]
    )


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", {})
    if not below:
        yield path, command
    for name, each in below.items():
        if not each.hidden:
            yield from _commands(f"{path} {name}", each)


def _section(path: str, command: Any) -> str:
    """Usage, what it does, and a table of its arguments and options."""
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    options = [row for each in command.params if (row := _row(each, context))]
    parts = [f"## `{path}`", f"```text\n{usage}\n```", _text(command.help)]
    if options:
        parts.append("\n".join(["| | |", "|---|---|", *options]))
    return "\n\n".join(part for part in parts if part)


def _row(parameter: Any, context: Any) -> str:
    """One argument or option, as the help shows it."""
    record = parameter.get_help_record(context)
    if record is None or getattr(parameter, "hidden", False):
        return ""
    name, about = (_cell(text) for text in record)
    return f"| `{name}` | {about} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/").replace("<", "\\<")


def _text(help_text: str | None) -> str:
    return "\n".join(line.strip() for line in (help_text or "").replace("\b", "").splitlines())

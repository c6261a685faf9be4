"""What the command prints passes here: foreign text is made safe in this one place, whichever command shows it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text
from typer.core import TyperArgument, TyperGroup, TyperOption

from ladle.cli import panels
from ladle_contracts.safe_text import for_terminal, one_line

T = TypeVar("T")


class SafeConsole(Console):
    """A console on which only its own styles and layout can be control sequences, never the text.

    No markup, because a path or a message may have brackets of its own.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """rich's own; made safe before it is broken into lines, so that nothing is cut off."""
        return super().render_str(for_terminal(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """rich's own. Whatever is shown becomes such segments."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=for_terminal(segment.text))

    def say(self, text: str) -> None:
        """One line as it is, however long."""
        self.print(one_line(text), soft_wrap=True)


class Steps:
    """What a command is doing while nothing else is to be seen: a spinner on a terminal, a line for each step
    elsewhere."""

    def __init__(self, console: SafeConsole) -> None:
        self._console = console
        self._status = console.status("") if console.is_terminal else None

    def begin(self, step: str) -> None:
        """`step` as in `starting Redis`."""
        if self._status is None:
            self._console.print(f"{step} ...", style="dim")
            return
        self._status.update(f"{step} ...")
        self._status.start()

    def pause(self) -> None:
        """Until the next step: something else is printed, or all is done."""
        if self._status is not None:
            self._status.stop()


def in_lines(value: T) -> T:
    """A model with all its texts made safe to stand inside a line. What a summary or a table is made from."""
    return _in_lines(value)  # type: ignore[no-any-return]


def _in_lines(value: Any) -> Any:
    match value:
        case str():
            return one_line(value) if type(value) is str else value
        case BaseModel():
            return value.model_copy(update={name: _in_lines(each) for name, each in value})
        case Mapping():
            return {_in_lines(name): _in_lines(each) for name, each in value.items()}
        case list() | tuple():
            return type(value)(_in_lines(each) for each in value)
        case _:
            return value


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Models for programs, in ASCII: a terminal may be reading after all."""
    return json.dumps(_plain(value), indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return json.loads(value.model_dump_json())
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
        return [_plain(each) for each in value]
    return value


# A file or a pipe has no width, so tables need not be narrow.
out = SafeConsole(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
err = SafeConsole(stderr=True)


class SafeGroup(TyperGroup):
    """Commands whose usage errors repeat what was typed, or what a shell's `*` found, safely."""

    def list_commands(self, ctx: Any) -> list[str]:
        """By panel, which typer shows in the order of their first commands."""
        commands = super().list_commands(ctx)
        return sorted(commands, key=lambda name: _place(getattr(self.commands[name], "rich_help_panel", None)))

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """typer's own."""
        with _safe_usage_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """typer's own."""
        with _safe_usage_errors():
            return super().invoke(ctx)


def _place(panel: object) -> int:
    return panels.ORDER.index(panel) if panel in panels.ORDER else len(panels.ORDER)


@contextmanager
def _safe_usage_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):
            told = for_terminal(error.format_message())
            error.format_message = lambda: told
        raise


def _without_types_of_python() -> None:
    """In the help typer writes `<bool>` beside a switch, as if it had a value, and `<list[str]>` beside an argument."""
    of_option = TyperOption.display_type_rich

    def told(option: TyperOption, ctx: Any) -> str | None:
        return None if option.is_flag else of_option(option, ctx)

    setattr(TyperOption, "display_type_rich", told)  # noqa: B010  mypy lets nobody assign to a method
    setattr(TyperArgument, "display_type_rich", lambda argument, ctx: None)  # noqa: B010


_without_types_of_python()

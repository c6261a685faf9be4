"""The flags that describe a job, once for `run` and `submit`.

Their names and panels come from `ladle_contracts.command_flags`; help text, default and rule from the contract.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer
from typer.core import TyperCommand

from ladle._errors import InvalidSpec
from ladle._spec import base_path, build_inspection, build_spec
from ladle.cli import completion
from ladle_contracts import InspectRequest
from ladle_contracts.command_flags import ALSO, ARGUMENTS, CHECKPOINTS_PANEL, FIELDS, FLAG_OF, FLAGS, PANELS, Flag
from ladle_contracts.far_urls import is_url
from ladle_contracts.roots import GLOB, splits
from ladle_contracts.safe_text import one_line

P = ParamSpec("P")

VAL_SET_HINT = "Write each of several sets as NAME=PATH, and a single path that looks like that as `./a=b.npz`."


class WrongUsage(typer.BadParameter):
    """The command line is wrong. The message says all, so typer's own "Invalid value" does not stand before it."""

    def format_message(self) -> str:
        return self.message


INSPECT_FLAGS = tuple(
    flag
    for flag in FLAGS
    if flag.path.partition(".")[0] in ("checkpoints", "kind", "task", "adapters", "method", "base")
)
PAIRS = frozenset(flag.name for flag in FLAGS if flag.is_pair)
OFFERED: dict[str, Callable[[typer.Context, str], list[tuple[str, str]]]] = {
    "method.name": completion.complete_method,
    "method.options": completion.complete_method_option,
    "task.name": completion.complete_task,
    "task.options": completion.complete_task_option,
    "metric": completion.complete_metric,
}
"""What the shell completes beside what the contract allows."""
BETWEEN = "\0"
"""Stands between the two values of a flag that has two: no argument of a program can hold it."""


class JobCommand(TyperCommand):
    """A command with the flags of a job. typer knows no flag that has two values and may be repeated."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """click's own, after the two values of such a flag were put together."""
        return super().parse_args(ctx, _paired(args))


def _paired(arguments: Sequence[str]) -> list[str]:
    joined: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        joined.append(name if equals and name in PAIRS else argument)
        if name in PAIRS and (rest or equals):
            first = value if equals else rest.pop(0)
            # A flag in the place of the second value is none: what is missing is told.
            has_second = bool(rest) and not rest[0].startswith("--")
            joined.append(f"{first}{BETWEEN}{rest.pop(0)}" if has_second else first)
    return joined


@dataclass(frozen=True, kw_only=True)
class JobArguments:
    """The job that a command line describes; the arguments of `ladle.submit`."""

    ckpt_dir: Path | tuple[Path, ...]
    val_set: Path | Mapping[str, Path]
    options: Mapping[str, Any]

    @property
    def inputs(self) -> list[Path]:
        """Every file or folder that the job reads."""
        val_sets = self.val_set.values() if isinstance(self.val_set, Mapping) else [self.val_set]
        others = (("train_set", "path"), ("adapters", "base_model"), ("curve", "earlier"))
        given = [self.options.get(part, {}).get(name) for part, name in others]
        ckpt_dirs = self.ckpt_dir if isinstance(self.ckpt_dir, tuple) else [self.ckpt_dir]
        base = self.options.get("base")
        given += [Path(base_path(self.ckpt_dir, base))] if base else []
        return [*map(_without_glob, ckpt_dirs), *val_sets, *(path for path in given if path)]


@dataclass(frozen=True, kw_only=True)
class InspectArguments:
    """The folder that a command line describes; the arguments of `Client.inspect`."""

    ckpt_dir: Path | tuple[Path, ...]
    options: Mapping[str, Any]
    request: InspectRequest


def with_job_flags(command: Callable[Concatenate[JobArguments, P], None]) -> Callable[..., None]:
    """Gives a command the two paths and all flags of a job. It is called with what they describe, checked.

    A rule that is broken ends the program with a message about the flag, before anything is sent or started.
    """
    return _with_flags(command, tuple(ARGUMENTS), _in_panels(), _job_arguments)


def with_inspect_flags(command: Callable[Concatenate[InspectArguments, P], None]) -> Callable[..., None]:
    """The same with the flags that say which checkpoints, task and method."""
    panels = [(flag, panel) for flag, panel in _in_panels() if flag in INSPECT_FLAGS]
    return _with_flags(command, ("ckpt_dir",), panels, _inspect_arguments)


def _with_flags(
    command: Callable[..., None],
    arguments: Sequence[str],
    panels: Sequence[tuple[Flag, str]],
    read: Callable[[Mapping[str, Any]], Any],
) -> Callable[..., None]:
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    parameters = [
        *map(_path_parameter, arguments),
        _more_parameter(),
        *(_parameter(*each) for each in panels),
        *own,
    ]

    @wraps(command)
    def with_flags(**given: Any) -> None:
        values = {name: given.pop(name) for name in (*arguments, ALSO, *(flag.parameter for flag, _ in panels))}
        command(read(values), **given)

    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_flags


def flag_for(path: str) -> str:
    """The flag of a field, or of the option that the field is inside: `--steps` for `checkpoints.steps.1`."""
    while path not in FLAG_OF and "." in path:
        path = path.rpartition(".")[0]
    return FLAG_OF.get(path, path)


def pairs(texts: Sequence[str] | None, flag: str, *, plain: bool) -> dict[str, Any]:
    """`["steps=32"]` as `{"steps": 32}`: values are JSON where they can be, else text. With `plain` all are text."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise WrongUsage(f"`{flag}` must be NAME=VALUE, but is {text!r}.")
        found[name] = value if plain else _json_or_text(value)
    return found


def val_sets(texts: Sequence[str]) -> Path | dict[str, Path]:
    """`["val.npz"]` as a path, and `["clean=a.npz", "noisy=b.npz"]` by name. What is there under its whole name is a
    path, even if it could be read as NAME=PATH."""
    named = [_NAMED_PATH.fullmatch(text) for text in texts]
    if len(texts) == 1 and (named[0] is None or Path(texts[0]).exists()):
        return Path(texts[0])
    found: dict[str, Path] = {}
    for text, match in zip(texts, named, strict=True):
        if match is None:
            raise WrongUsage(
                f"Each of several `VAL_SET` must be NAME=PATH, but one is {text!r}. A glob for `CKPT_DIR` stands in "
                f"quotes, such as 'runs/*', and each further folder after `--{ALSO}`."
            )
        if match[1] in found:
            raise WrongUsage(f"Each of several `VAL_SET` must have a name of its own, but two are `{match[1]}`.")
        found[match[1]] = Path(match[2])
    return found


_NAMED_PATH = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)", re.DOTALL)
"""A name has no slash, so a path such as `runs/lr=0.1/val.npz` is none."""


def _in_panels() -> list[tuple[Flag, str]]:
    return [(flag, panel) for panel, flags in PANELS.items() for flag in flags]


def _path_parameter(name: str) -> inspect.Parameter:
    several = name == "val_set"
    text = " ".join(filter(None, (FIELDS[name].help, VAL_SET_HINT if several else "")))
    kind: Any = Annotated[list[str] if several else Path, typer.Argument(metavar=ARGUMENTS[name], help=text)]
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)


def _more_parameter() -> inspect.Parameter:
    text = "A further folder of checkpoints, or a glob. [may be repeated]"
    option = typer.Option(f"--{ALSO}", metavar="PATH", help=text, rich_help_panel=CHECKPOINTS_PANEL)
    kind: Any = Annotated[list[Path] | None, option]
    return inspect.Parameter(ALSO, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=kind)


def _without_glob(path: Path) -> Path:
    """The folder of a glob that matches something; else the path itself, which must be there then."""
    if is_url(path):
        first = next((index for index, part in enumerate(path.parts) if GLOB.search(part)), len(path.parts))
        return Path(*path.parts[:first])
    for folder, rest in splits(path.expanduser()):
        if folder.exists() and (not rest.parts or any(folder.glob(str(rest)))):
            return folder
    return path


def _parameter(flag: Flag, panel: str) -> inspect.Parameter:
    """Always None by default: what nobody gave is not sent, so that the service's default holds."""
    option = typer.Option(
        flag.name,
        metavar=flag.placeholder or None,
        help=flag.help,
        rich_help_panel=panel,
        autocompletion=OFFERED.get(flag.path) or _choices(flag),
    )
    kind: Any = list[str] if flag.is_repeatable else Path if flag.placeholder == "PATH" else str
    kind = bool if flag.is_switch else kind
    return inspect.Parameter(
        flag.parameter, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Annotated[kind | None, option]
    )


def _choices(flag: Flag) -> Callable[[str], list[str]] | None:
    """What the shell completes."""
    choices = flag.field.schema.get("enum")
    if choices is None:
        return None

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def _job_arguments(values: Mapping[str, Any]) -> JobArguments:
    options = _options(values, FLAGS)
    job = JobArguments(ckpt_dir=_ckpt_dirs(values), val_set=val_sets(values["val_set"]), options=options)
    with _about_flags():
        build_spec(job.ckpt_dir, job.val_set, job.options)
    return job


def _inspect_arguments(values: Mapping[str, Any]) -> InspectArguments:
    options = _options(values, INSPECT_FLAGS)
    ckpt_dir = _ckpt_dirs(values)
    with _about_flags():
        request = build_inspection(ckpt_dir, options)
    return InspectArguments(ckpt_dir=ckpt_dir, options=options, request=request)


def _ckpt_dirs(values: Mapping[str, Any]) -> Path | tuple[Path, ...]:
    more = values[ALSO] or []
    return (values["ckpt_dir"], *more) if more else values["ckpt_dir"]


def _options(values: Mapping[str, Any], flags: Sequence[Flag]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for flag in flags:
        given = values[flag.parameter]
        if given not in (None, [], ()):
            part, _, name = flag.path.rpartition(".")
            (options.setdefault(part, {}) if part else options)[name] = _read(given, flag)
    return options


@contextmanager
def _about_flags() -> Iterator[None]:
    """A rule that is broken, in words about flags."""
    try:
        yield
    except InvalidSpec as error:
        sentences = [one_line(f"`{flag_for(each['field'])}` {each['message']}.") for each in error.errors]
        raise WrongUsage("\n".join(sentences) or str(error)) from error


def _read(given: Any, flag: Flag) -> Any:
    """The text of a flag as the value that the spec wants. What is no number stays text, and breaks the spec's rule."""
    schema = flag.field.schema
    if flag.is_pair:
        return _by_name(given, flag)
    match schema.get("type"):
        case "object":
            plain = schema.get("additionalProperties", {}).get("type") == "string"
            return pairs(given, flag.name, plain=plain)
        case "array":
            return _numbers(given, flag.name)
        case "integer" | "number":
            return _number(given)
        case None if any(kind["type"] == "object" for kind in flag.field.kinds) and any("=" in text for text in given):
            return pairs(given, flag.name, plain=False)
        case None if len(given) == 1:
            return given[0]
        case _:
            return given


def _by_name(given: Sequence[str], flag: Flag) -> dict[str, list[str]]:
    """The pairs `a x` and `a y` as `{"a": ["x", "y"]}`."""
    found: dict[str, list[str]] = {}
    for pair in given:
        name, separator, value = pair.partition(BETWEEN)
        if not separator:
            raise WrongUsage(f"`{flag.name}` must be followed by two values, {flag.placeholder}, but {pair!r} is one.")
        found.setdefault(name, []).append(value)
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError, OverflowError):
            value = kind(text)
            return value if math.isfinite(value) else text
    return text


def _numbers(text: str, flag: str) -> list[int | float]:
    numbers = [_number(part) for part in text.split(",")]
    if any(isinstance(number, str) for number in numbers):
        raise WrongUsage(f"`{flag}` must be numbers with commas between, but is {text!r}.")
    return [number for number in numbers if not isinstance(number, str)]


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text

"""The same job as a command, in Python and with curl. A person who has filled in the form can go on in a script."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pprint import pformat
from typing import Any

from ladle_contracts.command_flags import ALSO, ARGUMENTS, FLAGS, Flag

WIDTH = 100
INDENT = "  "


@dataclass(frozen=True, kw_only=True)
class Equivalents:
    """Three texts to copy."""

    command: str
    python: str
    curl: str


def equivalents(body: Mapping[str, Any], url: str, *, with_token: bool) -> Equivalents:
    """What submits the job `body` to the service at `url`. What is missing is shown as `CKPT_DIR` or `VAL_SET`."""
    return Equivalents(
        command=command(body, url),
        python=python(body, url, with_token=with_token),
        curl=curl(body, url, with_token=with_token),
    )


def command(body: Mapping[str, Any], url: str) -> str:
    """`ladle submit ...`, one flag per line where it is long."""
    first, *more = _each(body.get("ckpt_dir") or ARGUMENTS["ckpt_dir"])
    words = [[_quoted(first)], *([_quoted(each)] for each in _val_sets(body)), ["--url", _quoted(url)]]
    words += [[f"--{ALSO}", _quoted(each)] for each in more]
    words += [[flag.name, *map(_quoted, values)] for flag in FLAGS for values in _values_of(flag, body)]
    pieces = [" ".join(each) for each in words]
    line = " ".join(["ladle submit", *pieces])
    return line if len(line) <= WIDTH else f" \\\n{INDENT}".join(["ladle submit", *pieces])


def python(body: Mapping[str, Any], url: str, *, with_token: bool) -> str:
    """A script of a few lines with `ladle.submit`."""
    arguments = [repr(_pythonic(body.get(name, placeholder))) for name, placeholder in ARGUMENTS.items()]
    options = {name: value for name, value in body.items() if name not in ARGUMENTS}
    arguments += [f"{name}={_indented(_short(name, value))}" for name, value in options.items()]
    arguments.append(f"url={url!r}")
    lines = [*(["# The token is read from the environment variable LADLE_TOKEN."] if with_token else [])]
    lines += ["import ladle", "", "job = ladle.submit("]
    lines += [f"    {argument}," for argument in arguments]
    return "\n".join([*lines, ")", "print(job.result().folder)"])


def curl(body: Mapping[str, Any], url: str, *, with_token: bool) -> str:
    """One request."""
    headers = ['-H "Authorization: Bearer $LADLE_TOKEN"'] if with_token else []
    headers.append("-H 'Content-Type: application/json'")
    given = {name: body.get(name, placeholder) for name, placeholder in ARGUMENTS.items()} | dict(body)
    data = shlex.quote(json.dumps(given, indent=2, ensure_ascii=False))
    return f" \\\n{INDENT}".join([f"curl {_quoted(f'{url}/v1/jobs')}", *headers, f"--data {data}"])


def _val_sets(body: Mapping[str, Any]) -> list[str]:
    val_set = body.get("val_set") or ARGUMENTS["val_set"]
    return [f"{name}={path}" for name, path in val_set.items()] if isinstance(val_set, dict) else [str(val_set)]


def _values_of(flag: Flag, body: Mapping[str, Any]) -> Iterator[list[str]]:
    """The words after each occurrence of a flag."""
    value: Any = body
    for part in flag.path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None or value == []:
        return
    if flag.is_switch:
        yield from [[]] if value is True else []
    elif flag.is_pair and isinstance(value, Mapping):
        yield from ([name, str(each)] for name, texts in value.items() for each in _each(texts))
    elif isinstance(value, Mapping):
        plain = flag.field.schema.get("additionalProperties", {}).get("type") == "string"
        yield from ([f"{name}={each if plain else _json_or_plain(each)}"] for name, each in value.items())
    elif isinstance(value, list) and not flag.is_repeatable:
        yield [",".join(map(str, value))]
    else:
        yield from ([str(each)] for each in _each(value))


def _json_or_plain(value: Any) -> str:
    """As JSON; text without quotes, unless the command would read it as JSON."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value, ensure_ascii=False)


def _quoted(word: str) -> str:
    return word if word in ARGUMENTS.values() else shlex.quote(word)


def _short(name: str, value: Any) -> Any:
    """A name alone stands for a choice without options."""
    if name in ("task", "method", "output") and isinstance(value, Mapping) and value.keys() == {"name"}:
        return value["name"]
    return value


def _indented(value: Any) -> str:
    return pformat(_pythonic(value), width=WIDTH - 12, sort_dicts=False).replace("\n", "\n    ")


def _pythonic(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

"""The public names of a package as a page: signatures, and the docstrings as they stand in the code."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

LONGEST_LINE = 100
SECTION = re.compile(r"^(?P<title>Args|Returns|Raises):\n(?P<body>(?: {4}.*\n?|\n(?= {4}))+)", re.MULTILINE)
ITEM = re.compile(r"^(\w+(?:, \w+)*): ")


def python_page(package: ModuleType, about: str) -> str:
    """A section for each name in `__all__`."""
    names: list[str] = list(package.__all__)
    return "\n\n".join([about, *(_section(name, getattr(package, name)) for name in names)]) + "\n"


def _section(name: str, value: Any) -> str:
    parts = [f"## `{name}`"]
    if inspect.isclass(value):
        if issubclass(value, Exception):
            parts.append(f"A kind of `{value.__bases__[0].__name__}`.")
        else:
            parts += [_fields(value) or _code(_signature(name, value))]
        parts += [_docstring(value), *_methods(value)]
    elif callable(value):
        parts += [_code(_signature(name, value)), _docstring(value)]
    else:
        parts.append(f"A `{type(value).__name__}`: {', '.join(f'`{each}`' for each in value)}.")
    return "\n\n".join(part for part in parts if part)


def _methods(owner: type) -> Iterator[str]:
    for name, member in inspect.getmembers(owner):
        function = inspect.unwrap(member) if callable(member) else None
        if name.startswith("_") or not inspect.isroutine(function) or not _is_ours(function):
            continue
        yield f"### `{owner.__name__}.{name}`"
        yield _code(_signature(name, member))
        yield _docstring(member)


def _is_ours(member: Any) -> bool:
    return str(getattr(member, "__module__", "")).startswith("ladle")


def _signature(name: str, value: Any) -> str:
    """`name(...) -> type`, on one line if it is short, else with a parameter per line."""
    signature = inspect.signature(value)
    parameters = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    whole = _plain(f"{name}{signature.replace(parameters=parameters)}")
    if len(whole) <= LONGEST_LINE:
        return whole
    end = whole[whole.rindex(")") :] if "->" not in whole else whole[whole.rindex(") ->") :]
    lines = ["*,"] if parameters[0].kind is inspect.Parameter.KEYWORD_ONLY else []
    for before, each in zip([None, *parameters], parameters, strict=False):
        if lines and each.kind is inspect.Parameter.KEYWORD_ONLY and before and before.kind is not each.kind:
            lines.append("*,")
        lines.append(f"{_plain(str(each))},")
    return "\n".join([f"{name}(", *(f"    {line}" for line in lines), end])


def _plain(text: str) -> str:
    """Annotations are strings in our files: shown without their quotes."""
    return text.replace("'", "")


def _docstring(value: Any) -> str:
    """As Markdown: it is so already, but for the sections of arguments and errors, which become lists."""
    return SECTION.sub(_listed, inspect.getdoc(value) or "")


def _listed(section: re.Match[str]) -> str:
    items = re.split(r"\n(?=\S)", textwrap.dedent(section["body"]).strip())
    lines = (ITEM.sub(r"- `\1`: ", " ".join(item.split())) for item in items)
    return "\n".join([f"**{section['title']}**", "", *lines]) + "\n"


def _fields(owner: type) -> str:
    """A table of what a record holds: the annotated fields of its class body, each with the string below it."""
    rows = []
    for cls in reversed(owner.__mro__):
        if not str(cls.__module__).startswith("ladle"):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and not ast.unparse(field.target).startswith("_"):
                rows.append((ast.unparse(field.target), ast.unparse(field.annotation), _string(after)))
    if not rows:
        return ""
    lines = [f"| `{name}` | `{kind.replace('|', chr(92) + '|')}` | {about} |" for name, kind, about in rows]
    return "\n".join(["| field | type | |", "|---|---|---|", *lines])


def _string(node: ast.stmt | None) -> str:
    """A docstring below a field, on one line."""
    found = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value
    return " ".join(str(found).split()).replace("|", "\\|") if found else ""


def _code(text: str) -> str:
    return f"```python\n{text}\n```"

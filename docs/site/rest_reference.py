"""The REST API as a page, from the OpenAPI document of the service."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ladle_service.app import create_app
from ladle_service.settings import Settings

ABOUT = """\
From the service's own OpenAPI document, which a running service has at `/openapi.json`. [The guide](rest.md) has
examples, and [the errors](errors.md) their causes and cures."""


def rest_page() -> str:
    """A section for each request, then one for each schema."""
    document = openapi()
    requests = [
        _request(method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    schemas = [_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return "\n\n".join([ABOUT, "## Requests", *requests, "## Schemas", *schemas]) + "\n"


def openapi() -> dict[str, Any]:
    """The document, without a server."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        document: dict[str, Any] = create_app(Settings(roots=(root,), results_dir=root)).openapi()
    return document


def _request(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [f"### `{method} {path}`", operation.get("description") or operation.get("summary", "")]
    if parameters := operation.get("parameters"):
        rows = [_parameter(each) for each in parameters]
        parts.append("\n".join(["| parameter | in | value | |", "|---|---|---|---|", *rows]))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"Body: {_type(content.get('schema', {}))}, as `{kind}`.")
    rows = [
        f"| {status} | {_line(answer['description'])} | {_answer(answer)} |"
        for status, answer in operation["responses"].items()
    ]
    parts.append("\n".join(["| status | | body |", "|---|---|---|", *rows]))
    return "\n\n".join(part for part in parts if part)


def _parameter(each: Mapping[str, Any]) -> str:
    schema = each["schema"]
    required = ", required" if each.get("required") else ""
    about = each.get("description") or schema.get("description", "")
    return f"| `{each['name']}` | {each['in']} | {_type(schema)}{required} | {_line(about)} |"


def _answer(answer: Mapping[str, Any]) -> str:
    return ", ".join(sorted({_type(content.get("schema", {})) for content in answer.get("content", {}).values()}))


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    parts = [f"### `{name}`", _line(schema.get("description", ""))]
    if properties := schema.get("properties"):
        needed = schema.get("required", ())
        rows = [_field(field, each, field in needed) for field, each in properties.items()]
        parts.append("\n".join(["| field | value | |", "|---|---|---|", *rows]))
    else:
        parts.append(f"{_type(schema)}.")
    return "\n\n".join(part for part in parts if part)


def _field(name: str, schema: Mapping[str, Any], required: bool) -> str:
    kind = _type(schema) + (", required" if required else "")
    default = schema.get("default")
    shown = f", default `{default}`" if default not in (None, {}, [], "") else ""
    return f"| `{name}` | {kind}{shown} | {_line(schema.get('description', ''))} |"


def _type(schema: Mapping[str, Any]) -> str:
    """What a value may be, in words, with links to other schemas."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    several = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if several:
        return " or ".join(dict.fromkeys(_type(each) for each in several))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return " ".join(_words(schema))


def _words(schema: Mapping[str, Any]) -> Iterator[str]:
    yield str(schema.get("type", "any"))
    if "format" in schema:
        yield f"({schema['format']})"
    if "minimum" in schema:
        yield f"from {schema['minimum']}"
    if "maximum" in schema:
        yield f"to {schema['maximum']}"


def _line(text: str) -> str:
    """On one line, for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")

"""Between the texts of a form and the body of a job: `5` at `checkpoints.last` becomes `{"checkpoints": {"last": 5}}`.

A text that is no value of its kind is passed on as it is, so that the rule it breaks is told in the spec's own words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ladle_contracts import Catalog, JobSpec, OptionInfo
from ladle_contracts.command_flags import FIELDS
from ladle_contracts.spec_fields import SpecField
from ladle_service.pages.option_types import BadValue, named, number, parts, read_value, write_value

OPTIONS = ("task.options", "method.options")
Texts = Mapping[str, str]
"""Name of a control -> what stands in it."""


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What a form says."""

    body: dict[str, Any]
    """The job as JSON, with only what was given."""
    errors: dict[str, str]
    """Name of a control -> what is wrong with its text."""


def fill(texts: Texts, catalog: Catalog) -> Filled:
    """The job that a form describes, as far as its texts can be read."""
    body: dict[str, Any] = {}
    errors: dict[str, str] = {}
    known = options_of(texts, catalog)
    for path, field in FIELDS.items():
        if path in OPTIONS:
            values = _options(path, texts, known[path], errors)
            if values:
                _put(body, path, values)
        elif text := texts.get(path, "").strip():
            try:
                _put(body, path, read_field(text, field))
            except BadValue as error:
                errors[path] = str(error)
    return Filled(body=body, errors=errors)


def texts_of(spec: JobSpec, catalog: Catalog) -> dict[str, str]:
    """The texts that `fill` reads as this job: only what differs from the defaults."""
    given = spec.model_dump(mode="json", exclude_defaults=True)
    texts = {}
    for path, field in FIELDS.items():
        value = _get(given, path)
        if value is not None and path not in OPTIONS:
            texts[path] = write_field(value, field)
    known = options_of(texts, catalog)
    for path in OPTIONS:
        texts |= _option_texts(path, _get(given, path) or {}, known[path])
    return texts


def options_of(texts: Texts, catalog: Catalog) -> dict[str, tuple[OptionInfo, ...] | None]:
    """The options of the chosen method and task. None where no node says which there are."""
    method, task = texts.get("method.name") or "auto", texts.get("task.name")
    return {
        "method.options": next((info.options for info in catalog.methods if info.name == method), None),
        "task.options": next((info.options for info in catalog.tasks if info.name == task), None),
    }


def read_field(text: str, field: SpecField) -> Any:
    """The value that a text stands for. Raises `BadValue`."""
    kinds = {kind["type"]: kind for kind in field.kinds}
    if "boolean" in kinds:
        return True
    if "array" in kinds:
        return _list(text, kinds["array"]["items"], alone="string" in kinds)
    if "object" in kinds:
        return _object(text, kinds["object"]) if "=" in text or "string" not in kinds else text
    return number(text) if kinds.keys() & {"integer", "number"} else text


def write_field(value: Any, field: SpecField) -> str:
    """The text that `read_field` reads as this value."""
    if isinstance(value, bool):
        return "on" if value else ""
    kinds = {kind["type"]: kind for kind in field.kinds}
    if isinstance(value, list):
        plain = (", " if _is_number(kinds["array"]["items"]) else "\n").join(map(str, value))
    elif isinstance(value, dict):
        plain = "\n".join(f"{name}={text}" for name, texts in value.items() for text in _each(texts))
    else:
        return str(value)
    try:
        read = read_field(plain, field)
    except BadValue:
        read = None
    return plain if _alike(read, value) else json.dumps(value, ensure_ascii=False)


def _list(text: str, items: Mapping[str, Any], *, alone: bool) -> Any:
    if isinstance(read := _json_of(text, "["), list):
        return read
    if not _is_number(items):
        lines = parts(text)
        return lines[0] if alone and len(lines) == 1 else lines
    numbers = [number(part) for part in parts(text, ",;\n\t ")]
    if any(isinstance(each, str) for each in numbers):
        raise BadValue("must be numbers with commas between")
    return numbers


def _object(text: str, schema: Mapping[str, Any]) -> Any:
    if isinstance(read := _json_of(text, "{"), dict):
        return read
    values = schema.get("additionalProperties") or next(iter(schema["patternProperties"].values()))
    if "anyOf" in values:
        return _lists_by_name(text)
    if _is_number(values):
        return {name: number(value) for name, value in named(text, ",\n").items()}
    return named(text)


def _lists_by_name(text: str) -> dict[str, list[str]]:
    """`a=x` and `a=y` as `{"a": ["x", "y"]}`. The name is that of a checkpoint, which may have a `=` itself."""
    found: dict[str, list[str]] = {}
    for line in parts(text):
        name, equals, value = line.rpartition("=")
        if not equals or not name.strip() or not value.strip():
            raise BadValue(f"must be CHECKPOINT=GLOB, but one is {json.dumps(line, ensure_ascii=False)}")
        found.setdefault(name.strip(), []).append(value.strip())
    return found


def _options(
    path: str, texts: Texts, known: tuple[OptionInfo, ...] | None, errors: dict[str, str]
) -> dict[str, Any] | None:
    """The options that are given. Where no node says which there are, those that one text names."""
    if known is None:
        try:
            return {name: _json_or_text(text) for name, text in named(texts.get(path, "")).items()}
        except BadValue as error:
            errors[path] = str(error)
            return None
    values = {}
    for option in known:
        name = f"{path}.{option.name}"
        if text := texts.get(name, "").strip():
            try:
                values[option.name] = read_value(text, option.type)
            except BadValue as error:
                errors[name] = str(error)
    return values


def _option_texts(path: str, given: Mapping[str, Any], known: tuple[OptionInfo, ...] | None) -> dict[str, str]:
    if known is None:
        lines = [f"{name}={_json_text(value)}" for name, value in given.items()]
        return {path: "\n".join(lines)} if lines else {}
    types = {option.name: option.type for option in known}
    return {f"{path}.{name}": write_value(value, types.get(name, "Any")) for name, value in given.items()}


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    *outer, name = path.split(".")
    for part in outer:
        body = body.setdefault(part, {})
    body[name] = value


def _get(body: Mapping[str, Any], path: str) -> Any:
    value: Any = body
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _is_number(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") in ("integer", "number")


def _each(texts: Any) -> list[Any]:
    return texts if isinstance(texts, list) else [texts]


def _alike(read: Any, value: Any) -> bool:
    """Equal, where one text stands for a list of one."""
    if isinstance(read, dict) and isinstance(value, dict):
        return read.keys() == value.keys() and all(_each(read[name]) == _each(value[name]) for name in value)
    return _each(read) == _each(value)


def _json_of(text: str, begins: str) -> Any:
    return _json_or_text(text) if text.startswith(begins) else None


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _json_text(value: Any) -> str:
    """Text stays as it is, unless it would be read as JSON."""
    return value if isinstance(value, str) and _json_or_text(value) == value else json.dumps(value, ensure_ascii=False)

"""The options of a job as a flat list, read from `JobSpec`: the command, the engine's call and the docs come from it.

`checkpoints.last` is the option `last` of the part `checkpoints`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from ladle_contracts.job_spec import JobSpec


@dataclass(frozen=True, kw_only=True)
class SpecField:
    """One option of a job."""

    path: str
    """Where it is in the spec, such as `checkpoints.last`."""
    required: bool
    default: Any
    """None when the option is required, or has no default."""
    help: str
    """One or two sentences, in Markdown."""
    schema: dict[str, Any]
    """The JSON schema of its value; of an option that may be null, the schema of the other values."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def kinds(self) -> list[dict[str, Any]]:
        """The schema of each kind of value that it may be."""
        return _kinds(self.schema)

    @property
    def kind(self) -> str:
        """What a value is: `whole number`, `text`, `list of whole numbers`."""
        return _kind(self.schema)

    @property
    def limits(self) -> str:
        """What a value may be: `at least 1`, or the values to choose from; empty when anything of its kind may."""
        return _limits(self.schema)


def value_of(spec: JobSpec, field: SpecField) -> Any:
    """What a spec says for an option; the default where the whole part, such as `train_set`, is absent."""
    value: Any = spec
    for name in field.path.split("."):
        value = getattr(value, name)
        if value is None:
            return field.default
    return value


def unknown_fields(part: BaseModel, prefix: str = "") -> list[str]:
    """The paths of what a newer version has written into a spec, and this one does not know."""
    found = [f"{prefix}{name}" for name in part.model_extra or {}]
    for name, value in part:
        if isinstance(value, BaseModel):
            found += unknown_fields(value, f"{prefix}{name}.")
    return found


def _walk(model: type[BaseModel], prefix: str = "", optional: bool = False) -> Iterator[SpecField]:
    for name, info in model.model_fields.items():
        part = _part(info)
        if part is not None:
            yield from _walk(part, f"{prefix}{name}.", optional or info.get_default() is None)
        else:
            yield _field(f"{prefix}{name}", info, optional)


def _part(info: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that groups options, such as `checkpoints`."""
    for kind in (info.annotation, *get_args(info.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _field(path: str, info: FieldInfo, optional: bool) -> SpecField:
    schema = TypeAdapter(info.rebuild_annotation()).json_schema()
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return SpecField(
        path=path,
        required=info.is_required() and not optional,
        default=None if info.is_required() else info.get_default(call_default_factory=True),
        help=" ".join((info.description or "").split()),
        schema=kinds[0] if len(kinds) == 1 else schema,
    )


def _kinds(schema: dict[str, Any]) -> list[dict[str, Any]]:
    kinds: list[dict[str, Any]] = schema.get("anyOf") or schema.get("oneOf") or [schema]
    return kinds


def _kind(schema: dict[str, Any]) -> str:
    if len(kinds := _kinds(schema)) > 1:
        return " or ".join(_limits(kind) if "enum" in kind else _kind(kind) for kind in kinds)
    if schema["type"] == "array":
        return f"list of {_kind(schema['items'])}s".replace("texts", "text")
    return _KINDS[schema["type"]]


def _limits(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        *most, last = (f"`{value}`" for value in schema["enum"])
        return f"{', '.join(most)} or {last}"
    if {"minimum", "maximum"} <= schema.keys():
        low, high = schema["minimum"], schema["maximum"]
        return f"{_number(low)} to {_number(high)}" if low < high else f"only {low}"
    return " and ".join(f"{words} {_number(schema[name])}" for name, words in _BOUNDS.items() if name in schema)


def _number(bound: float) -> str:
    if bound >= 1 << 31:
        return f"2^{int(bound).bit_length() - 1}"
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


_KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "object": "object",
    "boolean": "`true` or `false`",
}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}

SPEC_FIELDS: tuple[SpecField, ...] = tuple(_walk(JobSpec))
"""Every option of a job, in the order of the spec."""

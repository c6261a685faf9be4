"""From the options of `submit` to a job spec."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ladle._errors import InvalidSpec
from ladle_contracts import InspectRequest, JobSpec
from ladle_contracts.far_urls import as_url, is_url
from ladle_contracts.hints import did_you_mean
from ladle_contracts.rules import BrokenRule, broken_rules
from ladle_contracts.safe_text import one_line
from ladle_contracts.spec_fields import SPEC_FIELDS

PathLike = str | os.PathLike[str]
CkptDir = PathLike | Sequence[PathLike]
ValSet = PathLike | Mapping[str, PathLike]

M = TypeVar("M", bound=BaseModel)

OPTIONS = tuple(name for name in JobSpec.model_fields if name not in ("ckpt_dir", "val_set"))


def build_spec(ckpt_dir: CkptDir, val_set: ValSet, options: Mapping[str, Any]) -> JobSpec:
    """The spec for `submit(ckpt_dir, val_set, **options)`.

    Relative paths are taken from the current folder, that of `base` from the folder of checkpoints where it is there.
    `None` means the option's default. Raises TypeError for an option that does not exist, and InvalidSpec for a value
    that breaks a rule.
    """
    _check_names(options)
    fields = {"ckpt_dir": _ckpt_dir(ckpt_dir), "val_set": _val_set(val_set)}
    return _build(JobSpec, fields, _with_base_path(ckpt_dir, options))


def build_inspection(ckpt_dir: CkptDir, options: Mapping[str, Any]) -> InspectRequest:
    """The request for `Client.inspect(ckpt_dir, **options)`. Raises as `build_spec`."""
    return _build(InspectRequest, {"ckpt_dir": _ckpt_dir(ckpt_dir)}, _with_base_path(ckpt_dir, options))


def _build(model: type[M], fields: dict[str, Any], options: Mapping[str, Any]) -> M:
    for name, value in options.items():
        if value is not None:
            fields[name] = _FRIENDLY.get(name, _as_is)(_plain(value))
    _check_unicode(fields)
    try:
        # Through JSON, because that is what is sent: lists become tuples, and nothing else is converted.
        return model.model_validate_json(json.dumps(fields, allow_nan=False))
    except ValidationError as error:
        raise _invalid(broken_rules(error)) from error
    except (TypeError, ValueError) as error:
        raise InvalidSpec(f"The options must consist of JSON values, but do not: {error}.") from error


def absolute(path: PathLike) -> str:
    """The absolute path, with `~` expanded; an address as it is.

    `..` stays, because its meaning depends on links on the service's side.
    """
    return as_url(path) or str(Path(path).expanduser().absolute())


def base_path(ckpt_dir: CkptDir, given: PathLike) -> str:
    """The absolute path of a base, which may be the name of a checkpoint in the folder."""
    if isinstance(ckpt_dir, str | os.PathLike) and not (is_url(ckpt_dir) or is_url(given)):
        inside = Path(ckpt_dir).expanduser() / given
        if inside.exists():
            return absolute(inside)
    return absolute(given)


def _with_base_path(ckpt_dir: CkptDir, options: Mapping[str, Any]) -> Mapping[str, Any]:
    base = options.get("base")
    return {**options, "base": base_path(ckpt_dir, base)} if isinstance(base, str | os.PathLike) else options


def _ckpt_dir(given: CkptDir) -> Any:
    if isinstance(given, str | os.PathLike):
        return absolute(given)
    return [_path(each) for each in given] if isinstance(given, Iterable) else given


def _val_set(given: ValSet) -> Any:
    if isinstance(given, Mapping):
        return {name: _path(path) for name, path in given.items()}
    return absolute(given)


def _path(value: Any) -> Any:
    """What is no path breaks a rule of the spec, which names its field."""
    return absolute(value) if isinstance(value, str | os.PathLike) else value


def _check_unicode(fields: Mapping[str, Any]) -> None:
    """Python reads a file name that is not UTF-8 as text that cannot be sent."""
    rule = "must be text in UTF-8"
    broken = [
        BrokenRule(field=path, rule=rule, value=text, has_value=True)
        for path, text in _texts(fields, "")
        if any("\ud800" <= char <= "\udfff" for char in text)
    ]
    if broken:
        raise _invalid(broken)


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Each text in a value, also the names in it, with the field that it is in."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield path, str(name)
            yield from _texts(each, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each, path)


def _check_names(options: Mapping[str, Any]) -> None:
    for name in options:
        if name in OPTIONS:
            continue
        raise TypeError(f"submit() has no option `{name}`. {_hint(name)}")


def _hint(name: str) -> str:
    parts = [field.path.partition(".")[0] for field in SPEC_FIELDS if field.name == name]
    if len(parts) == 1:
        return f'It is a field of `{parts[0]}`: {parts[0]}={{"{name}": ...}}.'
    return did_you_mean(name, OPTIONS) or f"The options are {', '.join(OPTIONS)}."


def _plain(value: Any) -> Any:
    """A contract as the mapping that is sent: only what was set, so that the service's defaults hold."""
    return value.model_dump(mode="json", exclude_unset=True) if isinstance(value, BaseModel) else value


def _as_is(value: Any) -> Any:
    return value


def _named(key: str) -> Callable[[Any], Any]:
    """A string is short for `{key: string}`."""
    return lambda value: {key: value} if isinstance(value, str) else value


def _tracking(value: Any) -> Any:
    return {"trackers": value} if isinstance(value, str | list | tuple) else value


def _train_set(value: Any) -> Any:
    if isinstance(value, str | os.PathLike):
        return {"path": absolute(value)}
    if isinstance(value, Mapping) and isinstance(value.get("path"), str | os.PathLike):
        return {**value, "path": absolute(value["path"])}
    return value


def _adapters(value: Any) -> Any:
    if isinstance(value, str):
        return {"space": value}
    if isinstance(value, Mapping) and isinstance(value.get("base_model"), str | os.PathLike):
        return {**value, "base_model": absolute(value["base_model"])}
    return value


def _curve(value: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(value.get("earlier"), str | os.PathLike):
        return {**value, "earlier": absolute(value["earlier"])}
    return value


_FRIENDLY: dict[str, Callable[[Any], Any]] = {
    "task": _named("name"),
    "method": _named("name"),
    "checkpoints": _named("pattern"),
    "adapters": _adapters,
    "curve": _curve,
    "train_set": _train_set,
    "output": _named("name"),
    "tracking": _tracking,
}


def _invalid(broken: Sequence[BrokenRule]) -> InvalidSpec:
    sentences = [one_line(f"`{each.field}` {each.describe(_short)}.") for each in broken]
    text = sentences[0] if len(sentences) == 1 else "\n  ".join(["The job spec is not valid:", *sentences])
    errors = tuple({"field": each.field, "message": each.describe(_short), "value": each.value} for each in broken)
    return InvalidSpec(text, errors=errors)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."

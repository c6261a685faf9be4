"""What tells a task from others of its name, so that none takes up another's resume state: its type, source and state.

All of it is names, numbers and digests: the same in every process that makes the same task.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import inspect
import sys
from collections.abc import Mapping, Sequence, Set
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ENTRY_POINT_GROUP = "ladle.tasks"
DEEPEST = 6
"""Levels of containers and objects that are looked into."""


def name_of(task: Any) -> str:
    """Its name or, where that breaks the rules, its class's."""
    name = getattr(task, "name", None)
    return name if isinstance(name, str) else (task if isinstance(task, type) else type(task)).__name__


def identity_of_type(task: type) -> dict[str, Any]:
    """Module and name of the class, the distribution that brings it, and what it and its bases are made of."""
    bases = [each for each in task.__mro__ if each is not object]
    return {
        "type": f"{task.__module__}.{task.__qualname__}",
        "distribution": distribution_of(task.__module__),
        "source": _digest([_source_of(each) for each in bases]),
        # A class that a function makes sees variables of that function, which no source shows.
        "attributes": _digest([_Description().of(_own(vars(each))) for each in bases]),
    }


def state_of(task: object) -> Any:
    """Its attributes, options among them."""
    return _Description().of(_own(_attributes(task)))


def identity_of_function(function: Any) -> Any:
    """What a function does, with all that it sees: the variables around it, and its module. None for None."""
    if function is None:
        return None
    kind = type(function)
    known = (FunctionType, MethodType, functools.partial)
    own = None if issubclass(kind, known) else identity_of_type(kind)
    file = getattr(sys.modules.get(getattr(function, "__module__", "")), "__file__", None)
    source = _digest(Path(file).read_text(errors="replace")) if file and Path(file).suffix == ".py" else None
    return [own, source, _Description().of(function)]


def identity_of_module(module: nn.Module) -> str:
    """A network without its weights: the classes of its parts, their settings, and buffers that no file holds."""
    stored = module.state_dict(keep_vars=True)
    found: list[Any] = [(name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in stored.items()]
    classes = {type(part) for part in module.modules()}
    found += sorted(str(_network_type(each)) for each in classes)
    for name, part in module.named_modules():
        plain = {key: each for key, each in vars(part).items() if isinstance(each, (bool, int, float, str))}
        settings = sorted((key, each) for key, each in plain.items() if key != "training" and not key.startswith("_"))
        found.append((name, _type(part), settings))
    found += [(name, _array(buffer)) for name, buffer in module.named_buffers() if name not in stored]
    return _digest(found)


def _network_type(part: type[nn.Module]) -> Any:
    # torch's own have no version but torch's, which says enough.
    return _type_name(part) if part.__module__.startswith("torch.") else identity_of_type(part)


def distribution_of(module: str) -> str | None:
    """Name and version of the distribution whose task it is; None for code that no entry point brings."""
    package = module.partition(".")[0]
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        if entry_point.module.partition(".")[0] == package and entry_point.dist is not None:
            return f"{entry_point.dist.name} {entry_point.dist.version}"
    return None


def _source_of(task: type) -> str:
    """Of its module, whose functions it may call; of the class alone in a notebook, which is no module with a file."""
    file = getattr(sys.modules.get(task.__module__), "__file__", None)
    try:
        return Path(file).read_text() if file else inspect.getsource(task)
    except (OSError, TypeError, ValueError):
        # Built in, compiled, or typed at a prompt: its name is all there is.
        return ""


def _own(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Functions, and what does not begin with `_`: that is a task's own business, such as caches and counters."""
    return {
        name: value
        for name, value in attributes.items()
        if not name.startswith("_") or isinstance(value, (FunctionType, classmethod, staticmethod))
    }


class _Description:
    """Values as JSON has them. Each object is described once, so that those which hold each other come to an end."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def of(self, value: Any, depth: int = 0) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, type):
            return _type_name(value)
        if isinstance(value, (bytes, bytearray, Path, enum.Enum, torch.dtype, torch.device)):
            return str(value)
        if isinstance(value, (Tensor, np.ndarray)):
            return _array(value)
        if depth > DEEPEST or id(value) in self._seen:
            return _type(value)
        self._seen.add(id(value))
        return self._parts(value, depth + 1)

    def _parts(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            return {str(key): self.of(each, depth) for key, each in value.items()}
        if isinstance(value, Set):
            return sorted(str(self.of(each, depth)) for each in value)
        if isinstance(value, Sequence):
            return [self.of(each, depth) for each in value]
        if isinstance(value, MethodType):
            return [self.of(value.__func__, depth), self.of(value.__self__, depth)]
        if isinstance(value, (classmethod, staticmethod)):
            return self.of(value.__func__, depth)
        if isinstance(value, functools.partial):
            return [self.of(each, depth) for each in (value.func, value.args, value.keywords)]
        if isinstance(value, FunctionType):
            return self._function(value, depth)
        return [_type(value), self.of(_attributes(value), depth)]

    def _function(self, function: FunctionType, depth: int) -> list[Any]:
        """Its name, what it does, and what it sees of the function around it."""
        code = function.__code__
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        return [
            f"{function.__module__}.{function.__qualname__}",
            _digest(_code(code)),
            # `__class__` is the class itself, for `super()`.
            {name: self.of(_content(cell), depth) for name, cell in cells.items() if name != "__class__"},
            self.of(function.__defaults__, depth),
            self._helpers(function, depth),
        ]

    def _helpers(self, function: FunctionType, depth: int) -> dict[str, Any]:
        """What it uses of a notebook or a prompt, whose source nobody else has read."""
        names = function.__globals__
        if "__file__" in names:
            return {}
        used = {name: names[name] for name in _names_in(function.__code__) if name in names}
        return {name: self.of(each, depth) for name, each in used.items() if isinstance(each, _HELPERS)}


_HELPERS = (FunctionType, functools.partial, bool, int, float, str)


def _code(code: CodeType) -> list[Any]:
    """What it does, and functions inside of it."""
    constants = [each for each in code.co_consts if isinstance(each, (bool, int, float, str))]
    inner = [_code(each) for each in code.co_consts if isinstance(each, CodeType)]
    return [code.co_code.hex(), code.co_names, constants, inner]


def _names_in(code: CodeType) -> list[str]:
    """Those of functions inside of it too."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return sorted({*code.co_names, *(name for each in inner for name in _names_in(each))})


def _attributes(value: object) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return getattr(value, "__dict__", {})


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        # A variable that has no value yet.
        return None


def _array(value: Tensor | np.ndarray[Any, Any]) -> list[Any]:
    kind = [str(value.dtype), list(value.shape)]
    if isinstance(value, Tensor):
        if value.is_meta or value.layout is not torch.strided:
            return kind
        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return [*kind, hashlib.sha256(value.tobytes()).hexdigest()[:16]]


def _type(value: object) -> str:
    return _type_name(type(value))


def _type_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _digest(values: Any) -> str:
    return hashlib.sha256(repr(values).encode(errors="replace")).hexdigest()[:16]

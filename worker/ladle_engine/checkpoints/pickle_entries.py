"""Where in a pickle something stands that a weights-only load refuses, for a message that helps.

The opcodes are read and nothing that they name is imported or called: what the pickle would make is only sketched.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

MAX_OPCODES = 2_000_000
"""A message is worth a few seconds."""

MAX_PICKLE_BYTES = 256 << 20

MAX_PICKLES = 4
"""The format of before torch 1.6 has three small ones before the one that counts."""


@dataclass(eq=False)
class _Made:
    """What an opcode makes: a class by its name, or anything with parts, those of dicts under their keys."""

    names: str | None = None
    parts: list[tuple[str | None, Any]] = field(default_factory=list)

    def add(self, *values: Any) -> None:
        self.parts += [(None, value) for value in values]


_MARK = object()


def entries_of(path: Path) -> dict[str, tuple[str, ...]]:
    """Every class or function that the file's pickle names -> the keys under which it stands first.

    Empty where the file cannot be followed: this only improves a message.
    """
    found: dict[str, tuple[str, ...]] = {}
    with suppress(Exception), _open_pickle(path) as file:
        for _ in range(MAX_PICKLES):
            _collect(_sketch(file), found)
    return found


def _open_pickle(path: Path) -> IO[bytes]:
    if not zipfile.is_zipfile(path):
        return path.open("rb")
    with zipfile.ZipFile(path) as archive:
        (info,) = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
        if info.file_size > MAX_PICKLE_BYTES:
            return io.BytesIO()
        return io.BytesIO(archive.read(info))


def _collect(root: Any, found: dict[str, tuple[str, ...]]) -> None:
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while waiting:
        keys, made = waiting.pop()
        if not isinstance(made, _Made) or id(made) in seen:
            continue
        seen.add(id(made))
        if made.names is not None:
            found.setdefault(made.names, keys)
        inner = [(keys if key is None else (*keys, key), part) for key, part in made.parts]
        waiting += reversed(inner)


def _sketch(file: IO[bytes]) -> Any:
    """What one pickle would make."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > MAX_OPCODES:
            break
        _apply(opcode.name, argument, stack, memo)
    return stack[-1] if stack else None


def _apply(opcode: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    match opcode:
        case "PROTO" | "FRAME" | "STOP":
            return
        case "MARK":
            stack.append(_MARK)
        case "PUT" | "BINPUT" | "LONG_BINPUT":
            memo[argument] = stack[-1]
        case "MEMOIZE":
            memo[len(memo)] = stack[-1]
        case "GET" | "BINGET" | "LONG_BINGET":
            stack.append(memo[argument])
        case "GLOBAL":
            stack.append(_Made(names=argument.replace(" ", ".")))
        case "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(_Made(names=f"{module}.{name}"))
        case "INST":
            stack.append(_Made(names=argument.replace(" ", "."), parts=[(None, part) for part in _to_mark(stack)]))
        case "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set(stack[-1], key, value)
        case "SETITEMS" | "DICT":
            items = list(_to_mark(stack))
            if opcode == "DICT":
                stack.append(_Made())
            for key, value in zip(items[::2], items[1::2], strict=True):
                _set(stack[-1], key, value)
        case "APPENDS" | "ADDITEMS":
            parts = list(_to_mark(stack))
            stack[-1].add(*parts)
        case "TUPLE" | "LIST" | "FROZENSET" | "OBJ":
            stack.append(_Made(parts=[(None, part) for part in _to_mark(stack)]))
        case "APPEND" | "BUILD":
            part = stack.pop()
            stack[-1].add(part)
        case "REDUCE" | "NEWOBJ" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "NEWOBJ_EX" | "BINPERSID":
            taken = {"TUPLE1": 1, "BINPERSID": 1, "TUPLE3": 3, "NEWOBJ_EX": 3}.get(opcode, 2)
            stack[-taken:] = [_Made(parts=[(None, part) for part in stack[-taken:]])]
        case "POP":
            stack.pop()
        case "POP_MARK":
            list(_to_mark(stack))
        case "DUP":
            stack.append(stack[-1])
        case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_SET" | "EMPTY_TUPLE":
            stack.append(_Made())
        case _:
            # A constant.
            stack.append(argument)


def _to_mark(stack: list[Any]) -> Iterator[Any]:
    """Takes what lies above the last mark, and the mark."""
    position = len(stack) - 1
    while stack[position] is not _MARK:
        position -= 1
    taken = stack[position + 1 :]
    del stack[position:]
    return iter(taken)


def _set(target: Any, key: Any, value: Any) -> None:
    target.parts.append((str(key) if isinstance(key, str | int) else None, value))

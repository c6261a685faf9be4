"""Where in a pickle something stands that a weights-only load refuses, for a message that helps.

The opcodes are read and nothing that they name is imported or called: what the pickle would make is only sketched.
"""

from __future__ import annotations

import io
import itertools
import pickletools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from ladle_engine.checkpoints.pickles.torch_archive import InputStream, is_zip, open_archive
from ladle_engine.storage.input_file import InputFile

MAX_OPCODES = 2_000_000
"""A message is worth a few seconds."""

MOST_KEYS = 20
"""Of an entry; a message has no room for more."""

MAX_PICKLES = 4
"""The format of before torch 1.6 has three small ones before the one that counts."""


@dataclass(eq=False)
class _Made:
    """What an opcode makes: a class by its name, or anything with parts, those of dicts under their keys."""

    names: str | None = None
    parts: list[tuple[str | None, Any]] = field(default_factory=list)

    def add(self, values: Iterable[Any]) -> _Made:
        self.parts += [(None, value) for value in values]
        return self

    def put(self, items: Sequence[Any]) -> None:
        """Keys and values in turn."""
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.parts.append((str(key) if isinstance(key, str | int) else None, value))


_MARK = object()


def entries_of(file: InputFile) -> dict[str, tuple[str, ...]]:
    """Every class or function that the file's pickle names -> the keys under which it stands first.

    Empty where the file cannot be followed: this only improves a message.
    """
    found: dict[str, tuple[str, ...]] = {}
    with suppress(Exception), _open_pickle(file) as content:
        for _ in range(MAX_PICKLES):
            _collect(_sketch(content), found)
    return found


def _open_pickle(file: InputFile) -> IO[bytes]:
    return io.BytesIO(open_archive(file).pickle()) if is_zip(file) else io.BufferedReader(InputStream(file))


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
        inner = [(keys if key is None or len(keys) == MOST_KEYS else (*keys, key), part) for key, part in made.parts]
        waiting += reversed(inner)


def _sketch(file: IO[bytes]) -> Any:
    """What one pickle would make."""
    sketch = _Sketch()
    for opcode, argument, _ in itertools.islice(pickletools.genops(file), MAX_OPCODES):
        # What is not listed pushes a constant.
        _EFFECTS.get(opcode.name, _Sketch.push)(sketch, argument)
    return sketch.stack[-1]


class _Sketch:
    """The stack and the memo of an unpickler that makes nothing."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        start = len(self.stack) - count
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def pop_to_mark(self) -> list[Any]:
        """What lies above the last mark, which goes too."""
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            position -= 1
        return self.pop(len(self.stack) - position)[1:]

    def remember(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def top(self) -> _Made:
        made: _Made = self.stack[-1]
        return made


def _wrap(count: int) -> _Effect:
    """One thing made of the last `count`."""
    return lambda sketch, _: sketch.push(_Made().add(sketch.pop(count)))


def _wrap_to_mark(sketch: _Sketch, _: Any) -> None:
    sketch.push(_Made().add(sketch.pop_to_mark()))


def _new_dict(sketch: _Sketch, _: Any) -> None:
    items = sketch.pop_to_mark()
    sketch.push(_Made())
    sketch.top().put(items)


def _set_items(sketch: _Sketch, _: Any) -> None:
    items = sketch.pop_to_mark()
    sketch.top().put(items)


def _set_item(sketch: _Sketch, _: Any) -> None:
    items = sketch.pop(2)
    sketch.top().put(items)


def _add_many(sketch: _Sketch, _: Any) -> None:
    values = sketch.pop_to_mark()
    sketch.top().add(values)


def _add_one(sketch: _Sketch, _: Any) -> None:
    values = sketch.pop(1)
    sketch.top().add(values)


_Effect = Callable[[_Sketch, Any], object]

_EFFECTS: dict[str, _Effect] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda sketch, _: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Sketch.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda sketch, index: sketch.push(sketch.memo[index])),
    **dict.fromkeys(("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE"), _wrap(0)),
    **dict.fromkeys(("TUPLE1", "BINPERSID"), _wrap(1)),
    **dict.fromkeys(("TUPLE2", "REDUCE", "NEWOBJ"), _wrap(2)),
    **dict.fromkeys(("TUPLE3", "NEWOBJ_EX"), _wrap(3)),
    **dict.fromkeys(("TUPLE", "LIST", "FROZENSET", "OBJ"), _wrap_to_mark),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _add_many),
    **dict.fromkeys(("APPEND", "BUILD"), _add_one),
    "MARK": lambda sketch, _: sketch.push(_MARK),
    "DICT": _new_dict,
    "SETITEMS": _set_items,
    "SETITEM": _set_item,
    "POP": lambda sketch, _: sketch.pop(1),
    "POP_MARK": lambda sketch, _: sketch.pop_to_mark(),
    "DUP": lambda sketch, _: sketch.push(sketch.stack[-1]),
    "GLOBAL": lambda sketch, name: sketch.push(_Made(names=name.replace(" ", "."))),
    "STACK_GLOBAL": lambda sketch, _: sketch.push(_Made(names=".".join(sketch.pop(2)))),
    "INST": lambda sketch, name: sketch.push(_Made(names=name.replace(" ", ".")).add(sketch.pop_to_mark())),
}
"""What each opcode does; see `pickletools`."""

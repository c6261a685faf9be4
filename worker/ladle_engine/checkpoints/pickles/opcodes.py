"""Follows a pickle without running it, within bounds on work and memory.

Nothing that it names is imported or called; `calls` says what stands for what. The opcodes are those of protocol
2, which `torch.save` writes.
"""

from __future__ import annotations

import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import Any, NamedTuple

from ladle_engine.checkpoints.pickles.calls import KNOWN, called, is_plain_key, storage_of
from ladle_engine.checkpoints.pickles.values import Inert, Malformed, Name, Special, Storage, StoredTensor

MAX_OPCODES = 20_000_000
"""About 35 a tensor: 500,000 tensors. Some ten seconds."""
MAX_BYTES = 512 << 20
"""Of memory, roughly, for what a pickle makes: 1.5 kB a tensor, so some 250,000 tensors."""
CONTAINER_BYTES = 80
"""An empty list or dict, with its place."""
NUMBER_BYTES = 40
ITEM_BYTES = 60
"""One entry of a dict."""
MAX_NAME_CHARS = 1000

NEWEST_PROTOCOL = 3
"""Written by `torch.save` when asked; from 4 on there are other opcodes."""


class Unwanted(Exception):
    """The pickle asks for something that is not known."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class UnknownOpcode(Exception):
    """One that `torch.save` does not write."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{code:#04x}")
        self.code = code


class CutShort(Malformed):
    """The content ends before the pickle does."""


class Followed(NamedTuple):
    value: Any
    end: int
    """The first byte after the pickle."""
    storages: dict[str, Storage]
    """All that it refers to, by their keys."""


def follow(content: bytes, start: int = 0) -> Followed:
    """What the pickle makes that begins at `start`. Raises `Malformed`, `CutShort`, `Unwanted` and `UnknownOpcode`."""
    if content[start : start + 1] not in (b"", PROTOCOL):
        raise Malformed("it does not begin as `torch.save` begins")
    follower = _Follower(content, start)
    try:
        value = follower.run()
    except Malformed:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        # A stack or a memo without what an opcode takes from it, or with something else in its place.
        raise Malformed(f"it does not parse ({type(error).__name__} at byte {follower.position:,})") from error
    return Followed(value, follower.position, follower.storages)


class _Follower:
    def __init__(self, content: bytes, start: int) -> None:
        self.content = content
        self.position = start
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        """The stacks below the open marks."""
        self.memo: dict[int, Any] = {}
        self.names: dict[str, Name] = {}
        self.storages: dict[str, Storage] = {}
        self.room = MAX_BYTES

    def run(self) -> Any:
        content, end = self.content, len(self.content)
        for _ in range(MAX_OPCODES):
            if self.position >= end:
                raise CutShort("it ends in the middle of its pickle")
            code = content[self.position]
            self.position += 1
            if code == STOP:
                return self.stack.pop()
            if (effect := EFFECTS[code]) is None:
                raise UnknownOpcode(code)
            effect(self)
        raise Malformed(f"its pickle has more than {MAX_OPCODES:,} opcodes")

    def charge(self, num_bytes: int) -> None:
        self.room -= num_bytes
        if self.room < 0:
            raise Malformed(f"its pickle would take more than {MAX_BYTES:,} bytes of memory")

    def push(self, value: Any, num_bytes: int) -> None:
        self.charge(num_bytes)
        self.stack.append(value)

    def take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if self.position > len(self.content):
            raise CutShort("it ends in the middle of its pickle")
        return self.content[start : self.position]

    def byte(self) -> int:
        return self.take(1)[0]

    def line(self) -> str:
        end = self.content.find(b"\n", self.position, self.position + MAX_NAME_CHARS)
        if end < 0:
            short = self.position + MAX_NAME_CHARS > len(self.content)
            raise CutShort("it ends in a name") if short else Malformed("it has a name of endless length")
        start, self.position = self.position, end + 1
        return self.content[start:end].decode()

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        self.room += CONTAINER_BYTES
        return items


def _mark(follower: _Follower) -> None:
    follower.charge(CONTAINER_BYTES)
    follower.outer.append(follower.stack)
    follower.stack = []


def _global(follower: _Follower) -> None:
    module, last = follower.line(), follower.line()
    if (module, last) in NAME_MAPPING:
        module, last = NAME_MAPPING[module, last]
    name = f"{IMPORT_MAPPING.get(module, module)}.{last}"
    if name not in KNOWN:
        raise Unwanted(name)
    follower.push(follower.names.setdefault(name, Name(name)), 8)


def _call(follower: _Follower) -> None:
    arguments = follower.stack.pop()
    function = follower.stack[-1]
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise Malformed("it calls something that is no function")
    follower.charge(3 * CONTAINER_BYTES)
    follower.stack[-1] = called(function.name, arguments, follower.charge)


def _build(follower: _Follower) -> None:
    """Attributes, of which none matters: those of an `OrderedDict`, say."""
    follower.stack.pop()
    if not isinstance(follower.stack[-1], (dict, list, tuple, Inert, Special, StoredTensor)):
        raise Malformed("it gives attributes to something that has none")


def _append(follower: _Follower) -> None:
    item = follower.stack.pop()
    _list(follower.stack[-1]).append(item)
    follower.charge(8)


def _append_all(follower: _Follower) -> None:
    items = follower.pop_to_mark()
    _list(follower.stack[-1]).extend(items)
    follower.charge(8 * len(items))


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise Malformed("it appends to something that is no list")
    return value


def _set_item(follower: _Follower) -> None:
    value, key = follower.stack.pop(), follower.stack.pop()
    _put(follower, key, value)


def _set_items(follower: _Follower) -> None:
    items = follower.pop_to_mark()
    for key, value in zip(items[::2], items[1::2], strict=True):
        _put(follower, key, value)


def _put(follower: _Follower, key: Any, value: Any) -> None:
    target = follower.stack[-1]
    if type(target) is not dict:
        raise Malformed("it sets items of something that is no dict")
    follower.charge(ITEM_BYTES)
    target[key if is_plain_key(key) else Inert()] = value


def _tuple(follower: _Follower) -> None:
    items = tuple(follower.pop_to_mark())
    follower.push(items, CONTAINER_BYTES + 8 * len(items))


def _tuple_of(count: int) -> _Effect:
    def effect(follower: _Follower) -> None:
        stack = follower.stack
        if len(stack) < count:
            raise IndexError("the stack is too short")
        items = tuple(stack[-count:])
        del stack[-count:]
        follower.push(items, CONTAINER_BYTES)

    return effect


def _constant(value: Any) -> _Effect:
    return lambda follower: follower.push(value, 8)


def _empty(kind: Callable[[], Any]) -> _Effect:
    return lambda follower: follower.push(kind(), CONTAINER_BYTES)


def _number(form: str) -> _Effect:
    packed = struct.Struct(form)

    def effect(follower: _Follower) -> None:
        follower.push(packed.unpack(follower.take(packed.size))[0], NUMBER_BYTES)

    return effect


def _long(follower: _Follower) -> None:
    encoded = follower.take(follower.byte())
    follower.push(int.from_bytes(encoded, "little", signed=True), NUMBER_BYTES + len(encoded))


def _text(follower: _Follower) -> None:
    encoded = follower.take(struct.unpack("<I", follower.take(4))[0])
    follower.push(str(encoded, "utf-8", "surrogatepass"), NUMBER_BYTES + len(encoded))


def _short_string(follower: _Follower) -> None:
    follower.push(follower.take(follower.byte()).decode(), NUMBER_BYTES)


def _persistent(follower: _Follower) -> None:
    follower.stack[-1] = storage = storage_of(follower.stack[-1])
    follower.storages[storage.key] = storage
    follower.charge(2 * CONTAINER_BYTES)


def _get(form: str) -> _Effect:
    packed = struct.Struct(form)

    def effect(follower: _Follower) -> None:
        follower.push(follower.memo[packed.unpack(follower.take(packed.size))[0]], 8)

    return effect


def _put_in_memo(form: str) -> _Effect:
    packed = struct.Struct(form)

    def effect(follower: _Follower) -> None:
        follower.memo[packed.unpack(follower.take(packed.size))[0]] = follower.stack[-1]
        follower.charge(ITEM_BYTES)

    return effect


def _protocol(follower: _Follower) -> None:
    if (protocol := follower.byte()) > NEWEST_PROTOCOL:
        raise UnknownOpcode(NEWER[0] if protocol <= 5 else protocol)


_Effect = Callable[[_Follower], object]

PROTOCOL = b"\x80"
STOP = ord(".")
NEWER = range(0x8C, 0x99)
"""The opcodes of protocol 4 and later."""

_BY_CODE: dict[bytes, _Effect] = {
    PROTOCOL: _protocol,
    b"c": _global,
    b"R": _call,
    b"\x81": _call,
    b"b": _build,
    b"a": _append,
    b"e": _append_all,
    b"s": _set_item,
    b"u": _set_items,
    b"(": _mark,
    b"t": _tuple,
    **{code: _tuple_of(count) for count, code in enumerate((b"\x85", b"\x86", b"\x87"), start=1)},
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b")": _constant(()),
    b"]": _empty(list),
    b"}": _empty(dict),
    b"J": _number("<i"),
    b"K": _number("<B"),
    b"M": _number("<H"),
    b"G": _number(">d"),
    b"\x8a": _long,
    b"X": _text,
    b"U": _short_string,
    b"Q": _persistent,
    b"h": _get("<B"),
    b"j": _get("<I"),
    b"q": _put_in_memo("<B"),
    b"r": _put_in_memo("<I"),
}
EFFECTS = [_BY_CODE.get(bytes([code])) for code in range(256)]
"""What each opcode does; see `pickletools`. Those that torch's weights-only loading follows."""

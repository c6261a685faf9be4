"""Follows a pickle of any protocol without running it, within bounds on work and memory.

Nothing that it names is imported or called; `calls` says what stands for what.
"""

from __future__ import annotations

import codecs
import gc
import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from sys import getsizeof
from typing import Any, NamedTuple

from ladle_engine.checkpoints.pickles.calls import referred_to
from ladle_engine.checkpoints.pickles.follower import (
    CONTAINER_BYTES,
    NUMBER_BYTES,
    PLACE_BYTES,
    Asked,
    Follower,
)
from ladle_engine.checkpoints.pickles.source import MAX_LINE_BYTES, Source
from ladle_engine.checkpoints.pickles.values import Malformed, Storage

ANYTHING = Asked()


class Followed(NamedTuple):
    value: Any
    end: int
    """The first byte after the pickle."""
    storages: dict[str, Storage]
    """All that it refers to, by their keys."""
    names: frozenset[str]
    """All classes and functions that it names."""


def follow(source: Source, asked: Asked = ANYTHING) -> Followed:
    """What the pickle makes that begins at the source's position. Raises `Malformed` and `CutShort`."""
    follower = Follower(source, asked)
    try:
        with _no_collection():
            value = _run(follower)
    except Malformed:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
        # A stack or a memo without what an opcode takes from it, or with something else in its place.
        raise Malformed(f"it does not parse ({type(error).__name__} at byte {source.position:,})") from error
    return Followed(value, source.position, follower.storages, frozenset(follower.names))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python looks for garbage among the new values again and again, and there is none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _run(follower: Follower) -> Any:
    next_byte = follower.source.byte
    for _ in range(follower.asked.most_opcodes):
        code = next_byte()
        if code == STOP:
            return follower.stack.pop()
        if (effect := EFFECTS[code]) is None:
            raise Malformed(f"its pickle has the opcode {code:#04x}, which means nothing")
        effect(follower)
    raise Malformed(f"its pickle has more than {follower.asked.most_opcodes:,} opcodes")


def _mark(follower: Follower) -> None:
    follower.charge(CONTAINER_BYTES)
    follower.outer.append(follower.stack)
    follower.stack = []


def _global(follower: Follower) -> None:
    follower.name(*_of_today(follower.source.line().decode(), follower.source.line().decode()))


def _stack_global(follower: Follower) -> None:
    last, module = follower.stack.pop(), follower.stack.pop()
    if not isinstance(module, str) or not isinstance(last, str):
        raise Malformed("it names something by no text")
    follower.name(*_of_today(module, last))


def _of_today(module: str, last: str) -> tuple[str, str]:
    """The names of Python 3 for those of Python 2."""
    if (module, last) in NAME_MAPPING:
        return NAME_MAPPING[module, last]
    return IMPORT_MAPPING.get(module, module), last


def _call(follower: Follower) -> None:
    arguments, function = follower.stack.pop(), follower.stack.pop()
    follower.call(function, arguments)


def _call_with_keywords(follower: Follower) -> None:
    keywords, arguments, function = (follower.stack.pop() for _ in range(3))
    if not isinstance(keywords, dict) or not isinstance(arguments, tuple):
        raise Malformed("it calls something in an unknown way")
    follower.call(function, (*arguments, keywords) if keywords else arguments)


def _call_to_mark(follower: Follower) -> None:
    function, *arguments = follower.pop_to_mark()
    follower.call(function, tuple(arguments))


def _call_by_name(follower: Follower) -> None:
    _global(follower)
    function = follower.stack.pop()
    follower.call(function, tuple(follower.pop_to_mark()))


def _build(follower: Follower) -> None:
    state = follower.stack.pop()
    follower.give_state(state)


def _append(follower: Follower) -> None:
    item = follower.stack.pop()
    follower.extend([item])


def _append_all(follower: Follower) -> None:
    items = follower.pop_to_mark()
    follower.extend(items)


def _set_item(follower: Follower) -> None:
    value, key = follower.stack.pop(), follower.stack.pop()
    follower.update([key, value])


def _set_items(follower: Follower) -> None:
    items = follower.pop_to_mark()
    follower.update(items)


def _dict_to_mark(follower: Follower) -> None:
    items = follower.pop_to_mark()
    follower.push({}, CONTAINER_BYTES)
    follower.update(items)


def _list_to_mark(follower: Follower) -> None:
    items = follower.pop_to_mark()
    follower.push(items, CONTAINER_BYTES + 8 * len(items))


def _tuple(follower: Follower) -> None:
    items = tuple(follower.pop_to_mark())
    follower.push(items, CONTAINER_BYTES + 8 * len(items))


def _tuple_of(count: int) -> _Effect:
    def effect(follower: Follower) -> None:
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

    def effect(follower: Follower) -> None:
        follower.push(packed.unpack(follower.source.take(packed.size))[0], NUMBER_BYTES)

    return effect


def _long(size_bytes: int) -> _Effect:
    return lambda follower: follower.push_long("number", follower.number(size_bytes), _signed)


def _signed(encoded: bytes) -> int:
    return int.from_bytes(encoded, "little", signed=True)


def _int_in_digits(follower: Follower) -> None:
    digits = follower.source.line().removesuffix(b"L")
    follower.push(digits == b"01" if digits in (b"00", b"01") else int(digits), NUMBER_BYTES + len(digits))


def _float_in_digits(follower: Follower) -> None:
    follower.push(float(follower.source.line()), NUMBER_BYTES)


def _text(size_bytes: int) -> _Effect:
    return lambda follower: follower.push_long("text", follower.number(size_bytes), _from_utf8)


def _from_utf8(encoded: bytes) -> str:
    return str(encoded, "utf-8", "surrogatepass")


def _bytes(size_bytes: int) -> _Effect:
    return lambda follower: follower.push_long("row of bytes", follower.number(size_bytes), bytes)


def _string(size_bytes: int) -> _Effect:
    """Of Python 2: a text, or bytes."""
    return lambda follower: follower.push_long("text", follower.number(size_bytes), _text_or_bytes)


def _text_or_bytes(encoded: bytes) -> str | bytes:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return encoded


def _string_in_quotes(follower: Follower) -> None:
    value = _text_or_bytes(codecs.escape_decode(follower.source.line(MAX_LINE_BYTES)[1:-1])[0])
    follower.push(value, getsizeof(value) + PLACE_BYTES)


def _text_with_escapes(follower: Follower) -> None:
    value = str(follower.source.line(MAX_LINE_BYTES), "raw-unicode-escape")
    follower.push(value, getsizeof(value) + PLACE_BYTES)


def _persistent(follower: Follower) -> None:
    follower.charge(2 * CONTAINER_BYTES)
    follower.stack[-1] = found = referred_to(follower.stack[-1])
    if isinstance(found, Storage):
        follower.storages[found.key] = found


def _extension(size_bytes: int) -> _Effect:
    """A class by a number that `copyreg` would know."""
    return lambda follower: follower.name("copyreg", f"extension_{follower.number(size_bytes)}")


def _get(size_bytes: int) -> _Effect:
    return lambda follower: follower.push(follower.remembered(follower.number(size_bytes)), 8)


def _get_by_digits(follower: Follower) -> None:
    follower.push(follower.remembered(int(follower.source.line())), 8)


def _put(size_bytes: int) -> _Effect:
    return lambda follower: follower.remember(follower.number(size_bytes))


def _pop(follower: Follower) -> None:
    """Takes the last value away or, where there is none, the last mark."""
    if follower.stack:
        follower.stack.pop()
    else:
        follower.pop_to_mark()


def _elsewhere(follower: Follower) -> None:
    raise Malformed("it refers to something that is not in the file")


_Effect = Callable[[Follower], object]

PROTOCOL = b"\x80"
STOP = ord(".")

_BY_CODE: dict[bytes, _Effect] = {
    PROTOCOL: lambda follower: follower.source.take(1),
    b"\x95": lambda follower: follower.source.take(8),
    b"c": _global,
    b"\x93": _stack_global,
    b"\x82": _extension(1),
    b"\x83": _extension(2),
    b"\x84": _extension(4),
    b"R": _call,
    b"\x81": _call,
    b"\x92": _call_with_keywords,
    b"o": _call_to_mark,
    b"i": _call_by_name,
    b"b": _build,
    b"a": _append,
    b"e": _append_all,
    b"\x90": _append_all,
    b"s": _set_item,
    b"u": _set_items,
    b"(": _mark,
    b"0": _pop,
    b"1": Follower.pop_to_mark,
    b"2": lambda follower: follower.push(follower.stack[-1], 8),
    b"t": _tuple,
    b"\x91": _tuple,
    b"l": _list_to_mark,
    b"d": _dict_to_mark,
    **{code: _tuple_of(count) for count, code in enumerate((b"\x85", b"\x86", b"\x87"), start=1)},
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b")": _constant(()),
    b"]": _empty(list),
    b"\x8f": _empty(list),
    b"}": _empty(dict),
    b"J": _number("<i"),
    b"K": lambda follower: follower.push(follower.source.byte(), 8),
    b"M": _number("<H"),
    b"G": _number(">d"),
    b"I": _int_in_digits,
    b"L": _int_in_digits,
    b"F": _float_in_digits,
    b"\x8a": _long(1),
    b"\x8b": _long(4),
    b"X": _text(4),
    b"\x8c": _text(1),
    b"\x8d": _text(8),
    b"V": _text_with_escapes,
    b"U": _string(1),
    b"T": _string(4),
    b"S": _string_in_quotes,
    b"B": _bytes(4),
    b"C": _bytes(1),
    b"\x8e": _bytes(8),
    b"\x96": _bytes(8),
    b"Q": _persistent,
    b"P": _elsewhere,
    b"\x97": _elsewhere,
    b"\x98": _elsewhere,
    b"h": _get(1),
    b"j": _get(4),
    b"g": _get_by_digits,
    b"q": _put(1),
    b"r": _put(4),
    b"p": lambda follower: follower.remember(int(follower.source.line())),
    b"\x94": lambda follower: follower.remember(),
}
EFFECTS = [_BY_CODE.get(bytes([code])) for code in range(256)]
"""What each opcode of the protocols 0 to 5 does; see `pickletools`."""

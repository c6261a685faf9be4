"""The stack and the memo of a pickle that is followed, within bounds on memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from gc import get_referents
from sys import getsizeof
from typing import Any

from ladle_engine.checkpoints.pickles.calls import as_key, called
from ladle_engine.checkpoints.pickles.source import MAX_NAME_CHARS, Source
from ladle_engine.checkpoints.pickles.values import Inert, Malformed, Name, Record, Special, Storage, StoredTensor

MAX_BYTES = 160 << 20
"""Of memory, roughly, for what a pickle makes: 1 kB a tensor, so some 150,000 tensors."""
MAX_OPCODES = 10_000_000
"""About 35 a tensor: more than fit into memory. Some five seconds."""
CONTAINER_BYTES = 150
"""An empty list, tuple or dict, with its place here and where it is looked at later."""
RECORD_BYTES = 150
"""An inert record."""
NUMBER_BYTES = 40
PLACE_BYTES = 32
"""Of a value on the stack, and in the list that it is put into."""
ITEM_BYTES = 100
"""One entry of a dict while it grows, or of the memo."""
FIRST_ITEM_BYTES = 100
"""What an empty list or dict takes for its first item."""
LONGEST_BYTES = 1 << 20
"""Of a text, bytes or a number; what is longer is left in the file."""
MEMO_BYTES = 24
"""One place of the memo."""
MOST_STEPS = 32
"""Back in the memo, from the attributes of an object to the object itself."""
ALLOWED_BYTES = 850
"""For an object that is made, and what it is made from."""
FORGOTTEN_BYTES = 80
"""What is given back of `CONTAINER_BYTES` where the memo forgets one: something else may hold it still."""
FORGOTTEN = Inert("what was only an object's attributes")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is wanted of a pickle, and what that may take."""

    makers: Mapping[str, Callable[[dict[Any, Any]], Record]] = field(default_factory=dict)
    """Name of a class -> what stands for an object of it, by its attributes. For classes whose objects own their
    attributes: nothing else in a file refers to the dict of these."""
    most_made: int = 0
    """Objects of these classes. Each allows `ALLOWED_BYTES` of memory more than `MAX_BYTES`."""
    most_opcodes: int = MAX_OPCODES


class Follower:
    def __init__(self, source: Source, asked: Asked) -> None:
        self.source = source
        self.asked = asked
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        """The stacks below the open marks."""
        self._memo: list[Any] = []
        """What was remembered in turn, as every pickler does."""
        self._more: dict[int, Any] = {}
        """By places that leave some out."""
        self.names: dict[str, Name] = {}
        self.storages: dict[str, Storage] = {}
        self.room = MAX_BYTES
        self._made = 0

    def charge(self, num_bytes: int) -> None:
        self.room -= num_bytes
        if self.room < 0:
            most = MAX_BYTES + ALLOWED_BYTES * self._made
            raise Malformed(f"its pickle would take more than {most:,} bytes of memory")

    def push(self, value: Any, num_bytes: int) -> None:
        self.charge(num_bytes)
        self.stack.append(value)

    def push_long(self, kind: str, count: int, decode: Callable[[bytes], Any]) -> None:
        """What stands in the next `count` bytes, or a record in its place."""
        if count > LONGEST_BYTES:
            self.source.skip(count)
            self.push(Inert(f"a long {kind}"), RECORD_BYTES)
        else:
            value = decode(self.source.take(count))
            self.push(value, getsizeof(value) + PLACE_BYTES)

    def number(self, num_bytes: int) -> int:
        """Unsigned."""
        if num_bytes == 1:
            return self.source.byte()
        return int.from_bytes(self.source.take(num_bytes), "little")

    def remember(self, place: int | None = None) -> None:
        """The last value, at the next place or at this one."""
        value = self.stack[-1]
        if place is None:
            place = len(self._memo) + len(self._more)
        if place == len(self._memo):
            self.charge(MEMO_BYTES)
            self._memo.append(value)
        elif 0 <= place < len(self._memo):
            self._memo[place] = value
        else:
            self.charge(2 * ITEM_BYTES)
            self._more[place] = value

    def remembered(self, place: int) -> Any:
        return self._memo[place] if 0 <= place < len(self._memo) else self._more[place]

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        self.room += CONTAINER_BYTES
        return items

    def name(self, module: str, last: str) -> None:
        name = f"{module}.{last}"
        if len(name) > 2 * MAX_NAME_CHARS:
            raise Malformed("it has a name of endless length")
        if (found := self.names.get(name)) is None:
            self.charge(RECORD_BYTES + len(name))
            self.names[name] = found = Name(name)
        self.push(found, 8)

    def call(self, function: Any, arguments: Any) -> None:
        """Pushes what stands for the result."""
        if not isinstance(arguments, tuple) or not isinstance(function, Name | Inert):
            raise Malformed("it calls something that is no function")
        # What a call made may be called again, such as `functools.partial`.
        made = called(function.name, arguments, self.charge) if isinstance(function, Name) else None
        if not arguments or made is not arguments[0]:
            self.charge(RECORD_BYTES)
        self.stack.append(Inert(function.name, (function, *arguments)) if made is None else made)

    def give_state(self, state: Any) -> None:
        """To the last value. Only inert records keep it: the attributes of an `OrderedDict` do not matter."""
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
            if (maker := self.asked.makers.get(target.name)) is not None and type(state) is dict:
                self._replace(target, maker(state), state)
        elif not isinstance(target, dict | list | tuple | StoredTensor):
            raise Malformed("it gives attributes to something that has none")

    def _replace(self, target: Inert, made: Record, state: dict[Any, Any]) -> None:
        """Puts `made` in the place of the last value, and forgets the tuples and the dict that it was made from: a
        pickler remembers them all, and refers to none of them again. Those that `made` keeps are not forgotten."""
        self.stack[-1] = made
        self._made += 1
        if self._made > self.asked.most_made:
            raise Malformed(f"it has more than {self.asked.most_made:,} objects like `{target.name}`")
        self.room += ALLOWED_BYTES
        self.room += FIRST_ITEM_BYTES + ITEM_BYTES * len(state) if state else 0
        target.state = None
        state.clear()
        memo, kept = self._memo, set(map(id, get_referents(made)))
        for place in range(len(memo) - 1, max(len(memo) - 1 - MOST_STEPS, -1), -1):
            value = memo[place]
            if value is target:
                memo[place] = made
                return
            if value is state or (type(value) is tuple and id(value) not in kept):
                memo[place] = FORGOTTEN
                self.room += FORGOTTEN_BYTES

    def extend(self, items: list[Any]) -> None:
        """The last value, which is a list or like one."""
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.elements = target.elements or []
            target = target.elements
        if not target:
            self.charge(FIRST_ITEM_BYTES)
        if type(target) is not list:
            raise Malformed("it appends to something that is no list")
        self.charge(10 * len(items))
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        """The last value, which is a dict or like one, by keys and values in turn."""
        target = self.stack[-1]
        if isinstance(target, Inert) and not isinstance(target, Special):
            target.entries = target.entries or {}
            target = target.entries
        if not target:
            self.charge(FIRST_ITEM_BYTES)
        if type(target) is not dict:
            raise Malformed("it sets items of something that is no dict")
        self.charge(ITEM_BYTES * (len(items) // 2))
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[as_key(key)] = value

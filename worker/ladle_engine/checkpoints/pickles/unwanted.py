"""Names that a checkpoint has no use for, because they run programs or change files when the file is loaded elsewhere.

Ladle runs nothing of a file, so such a file does no harm here. It is refused all the same: whoever gave it away meant
harm, and nobody should use its weights or load it with another program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ladle_engine.checkpoints.pickles.opcodes import Followed
from ladle_engine.checkpoints.pickles.values import Inert, Name
from ladle_engine.errors import CheckpointError

MODULES = frozenset(
    {
        *("os", "posix", "nt", "subprocess", "_posixsubprocess", "pty", "sys", "runpy", "code", "socket", "shutil"),
        *("ctypes", "importlib", "imp", "webbrowser", "pickle", "_pickle", "marshal", "timeit", "cProfile", "pdb"),
        *("bdb", "commands", "popen2", "pip"),
    }
)
BUILTINS = frozenset(
    {
        *("eval", "exec", "execfile", "compile", "open", "file", "input", "raw_input", "__import__", "breakpoint"),
        *("globals", "locals", "vars", "setattr", "delattr", "apply", "reload", "help"),
    }
)
OTHERS = ("torch.load", "torch.hub.", "torch.serialization.load", "torch.utils.cpp_extension.", "numpy.load")
"""What their names begin with."""
MOST_KEYS = 20
"""Of an entry; a message has no room for more."""
MOST_NAME_CHARS = 200


class Unwanted(Exception):
    """A pickle has such a name."""

    def __init__(self, name: str, keys: tuple[str, ...]) -> None:
        super().__init__(name)
        self.name = name
        self.keys = keys
        """Under which it stands first; none where it stands under none."""


def wanted(followed: Followed) -> Followed:
    """The same. Raises `Unwanted`."""
    if (name := min(filter(_is_unwanted, followed.names), default=None)) is not None:
        raise Unwanted(name, _keys_of(followed.value, name))
    return followed


def refusal(path: Path, unwanted: Unwanted) -> CheckpointError:
    entry = " / ".join(f"`{key}`" for key in unwanted.keys)
    return CheckpointError(
        "unsafe-checkpoint",
        f"The checkpoint file `{path}` must hold weights and plain values, but "
        f"{f'its entry {entry} asks' if entry else 'its pickle asks'} for `{unwanted.name[:MOST_NAME_CHARS]}`, which "
        f"runs a program or changes files when the file is loaded elsewhere. It was not run. Do not load this file "
        f"with another program. Get the weights as safetensors, from somebody you trust.",
    )


def _is_unwanted(name: str) -> bool:
    module, _, last = name.rpartition(".")
    if module == "builtins":
        return last in BUILTINS
    first, *inner = name.split(".")
    # A dotted name goes through modules: `torch.serialization.os.system`.
    return first in MODULES or not {"os", "subprocess"}.isdisjoint(inner) or name.startswith(OTHERS)


def _keys_of(root: Any, name: str) -> tuple[str, ...]:
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while waiting:
        keys, value = waiting.pop()
        if isinstance(value, Name | Inert) and value.name == name:
            return keys
        if isinstance(value, Mapping | list | tuple | Inert) and id(value) not in seen:
            seen.add(id(value))
            inner = [
                (keys if key is None or len(keys) == MOST_KEYS else (*keys, key), each) for key, each in _in(value)
            ]
            waiting += reversed(inner)
    return ()


def _in(value: Any) -> Iterator[tuple[str | None, Any]]:
    """What a value holds, with its key where it has one."""
    if isinstance(value, Mapping):
        yield from ((str(key)[:100] if isinstance(key, str | int) else None, each) for key, each in value.items())
    elif isinstance(value, Inert):
        yield from _in(value.attributes)
        yield from ((None, each) for each in value.parts())
    else:
        yield from ((None, each) for each in value)

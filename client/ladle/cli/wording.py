"""Messages in the command's words: the client speaks of arguments and fields, the command of flags."""

from __future__ import annotations

import re

from ladle_contracts.command_flags import FLAG_OF

_ALSO_IN_DATA = frozenset({"labels"})
"""Fields that arrays and columns of data are named like: meant are the fields where a message begins with them."""
_NAMED = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*)(=?)`")


def in_flags(message: str) -> str:
    """A message with the command's flags in the place of what a program would pass.

    An argument is marked by its `=`: `url=` becomes `--url`. A field of a job spec is known by its full path:
    `checkpoints.last` becomes `--last`.
    """

    def flag(found: re.Match[str]) -> str:
        name, is_argument = found[1], bool(found[2])
        if name in _ALSO_IN_DATA and not is_argument and found.start():
            return found[0]
        return f"`--{name.replace('_', '-')}`" if is_argument else f"`{FLAG_OF.get(name, name)}`"

    return _NAMED.sub(flag, message)

"""A second way from the ranks to their agent, for when no file can be written: a socket that is the ranks' stdin.

torchrun passes nothing else on. Reading from it gives the end of the file at once, as `/dev/null` does.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

from ladle_worker.well_formed import well_formed

STDIN = 0
MAX_BYTES = 1 << 18


class LastWords:
    """The agent's end."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.shutdown(socket.SHUT_WR)

    def stdin(self) -> int:
        """The descriptor that becomes the ranks' stdin."""
        return self._theirs.fileno()

    def read(self) -> dict[str, Any] | None:
        """What a rank said first. None if none said anything."""
        try:
            words = well_formed(json.loads(self._ours.recv(MAX_BYTES, socket.MSG_DONTWAIT)))
        except (BlockingIOError, ValueError):
            return None
        return words if isinstance(words, dict) else None

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


def say(words: Mapping[str, Any]) -> None:
    """For a rank. Raises OSError if there is no agent, or if it is too much."""
    os.write(STDIN, json.dumps(words).encode())

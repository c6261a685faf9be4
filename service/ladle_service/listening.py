"""How the service takes connections: how many files it may have open, and how many connections it takes at a time."""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Any

logger = logging.getLogger(__name__)

OTHER_FILES = 256
"""What may be open besides: connections to Redis, the log, and connections that have just come or are being closed."""
BACKLOG = 4096
"""How many connections the kernel holds until the service takes them."""
AT_ONCE = 32
"""How many connections are taken before other work has its turn."""


def allow_connections(wanted: int) -> int:
    """Raises the limit of open files as far as it goes, and returns how many connections there can be."""
    needed = wanted + OTHER_FILES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = max(1, hard - OTHER_FILES)
    if possible < wanted:
        logger.warning(
            "this process may open only %d files, so it takes %d connections instead of %d (`LADLE_MAX_CONNECTIONS`). "
            "Raise the hard limit: `LimitNOFILE=` in systemd, `ulimits: nofile` in Docker",
            hard, possible, wanted,
        )  # fmt: skip
    return min(wanted, possible)


class EventLoop(asyncio.SelectorEventLoop):
    """asyncio takes as many connections in one go as the kernel may hold, and meanwhile nobody gets an answer. It also
    may run out of open files that way, and complains about each one."""

    def __init__(self, handshake_s: float) -> None:
        """`handshake_s` is how long a client may take for TLS."""
        super().__init__()
        self._handshake_s = handshake_s

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:
        """asyncio's own."""
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = self._handshake_s
        server = await super().create_server(*arguments, **options | {"backlog": AT_ONCE})
        for listener in server.sockets:
            with listener.dup() as same:
                same.listen(BACKLOG)
        return server

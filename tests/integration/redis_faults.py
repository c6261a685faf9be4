"""What a Redis server may refuse while it runs. Each fault is there inside its block, and mended after it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from redis.exceptions import RedisError

from tests.polling import until
from tests.servers import RedisServer


@contextmanager
def _configured(server: RedisServer, *settings: tuple[str, str, str], kill: bool = False) -> Iterator[None]:
    """Settings as `(name, value, value afterwards)`. `kill` ends the others' connections, which have been let in."""
    with server.client() as admin:
        for name, value, _ in settings:
            admin.config_set(name, value)
        if kill:
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        try:
            yield
        finally:
            for name, _, value in settings:
                admin.config_set(name, value)


@contextmanager
def cannot_save(server: RedisServer) -> Iterator[None]:
    """A folder stands where the snapshot should be written."""
    obstacle = server.folder / "dump.rdb"
    obstacle.mkdir()
    with _configured(server, ("save", "3600 1", "")), server.client() as admin:
        admin.bgsave()
        until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", what="the snapshot to fail")
        yield
    with server.client() as admin:
        # Redis tries again by itself. One that has begun would be written as soon as the folder is gone.
        until(lambda: not admin.info("persistence")["rdb_bgsave_in_progress"], what="the last snapshot to end")
    obstacle.rmdir()


@contextmanager
def replica(server: RedisServer, *, stale: str) -> Iterator[None]:
    """Of a master that is not there."""
    with _configured(server, ("replica-serve-stale-data", stale, "yes")), server.client() as admin:
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            yield
        finally:
            admin.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    """With a script that does not end."""

    def run() -> None:
        with server.client() as client:
            try:
                client.eval("while true do end", 0)
            except RedisError:  # it is killed
                return

    with _configured(server, ("busy-reply-threshold", "50", "5000")), server.client() as admin:
        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: _refuses(admin, "BUSY"), what="Redis to be busy")
        try:
            yield
        finally:
            admin.script_kill()
            thread.join()


@contextmanager
def reads_only(server: RedisServer) -> Iterator[None]:
    """The user may not write."""
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "default", "-@write")
        try:
            yield
        finally:
            admin.execute_command("ACL", "SETUSER", "default", "+@all")


def _refuses(admin: Any, word: str) -> bool:
    try:
        admin.get("x")
    except RedisError as error:
        return word in str(error)
    return False


FAULTS: dict[str, Callable[[RedisServer], AbstractContextManager[None]]] = {
    "MISCONF": cannot_save,
    "READONLY": lambda server: replica(server, stale="yes"),
    "MASTERDOWN": lambda server: replica(server, stale="no"),
    "OOM": lambda server: _configured(server, ("maxmemory", "1", "0")),
    "NOREPLICAS": lambda server: _configured(server, ("min-replicas-to-write", "1", "0")),
    "BUSY": busy,
    "NOAUTH": lambda server: _configured(server, ("requirepass", "secret", ""), kill=True),
    "NOPERM": reads_only,
    "too many connections": lambda server: _configured(server, ("maxclients", "1", "10000"), kill=True),
}
"""Words of the answer -> the fault."""

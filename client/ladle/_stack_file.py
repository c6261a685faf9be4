"""The file by which a client finds the stack that `ladle up` started on this machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import platformdirs

from ladle._errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A running stack."""

    url: str
    token: str | None
    pid: int
    """The process of `ladle up`."""


def stack_path() -> Path:
    """Where the file is. Only its user may read it (0600)."""
    return platformdirs.user_state_path("ladle") / "stack.json"


class StackTaken(Exception):
    """This user already runs a `ladle up`: `stack`, or None while it is still starting."""

    def __init__(self, stack: Stack | None) -> None:
        super().__init__(f"pid {stack.pid}" if stack else "starting")
        self.stack = stack


@contextmanager
def sole_stack(path: Path | None = None) -> Iterator[Callable[[Stack], Path]]:
    """Makes this process the user's only stack, and yields the function that announces it. Raises `StackTaken`.

    A lock decides, because the kernel releases it however this process ends. A process id would not do: it may belong
    to another process by now.
    """
    path = path or stack_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock_path(path).open("a") as lock:
        if not _take(lock):
            raise StackTaken(read_stack(path))
        # A stack that was killed leaves it behind.
        path.unlink(missing_ok=True)
        try:
            yield lambda stack: _write(stack, path)
        finally:
            path.unlink(missing_ok=True)


def read_stack(path: Path | None = None) -> Stack | None:
    """The stack that runs now. None without a file, or when the process that wrote it has ended."""
    path = path or stack_path()
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    stack = _parse(text, path)
    return stack if _is_held(_lock_path(path)) else None


def _write(stack: Stack, path: Path) -> Path:
    """In one step, and readable only by its owner, because it has a token in it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(stack), file)
    temporary.replace(path)
    return path


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _take(lock: IO[str], patience_s: float = 1.0) -> bool:
    """Waits a moment, because a client that asks whether the lock is held holds it briefly itself."""
    import fcntl  # does not exist on Windows, where the client works but there is no stack to find

    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _is_held(lock_path: Path) -> bool:
    import fcntl

    try:
        with lock_path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _parse(text: str, path: Path) -> Stack:
    try:
        fields: dict[str, Any] = json.loads(text)
        stack = Stack(url=fields["url"], token=fields.get("token"), pid=fields["pid"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path} is not a file that `ladle up` wrote. Delete it.") from error
    if not (isinstance(stack.url, str) and isinstance(stack.pid, int) and isinstance(stack.token, str | None)):
        raise ConfigurationError(f"{path} is not a file that `ladle up` wrote. Delete it.")
    return stack

"""The file by which a client finds the stack that `ladle up` started on this machine."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    """Where the file lies; it is the user's own (0600)."""
    return platformdirs.user_state_path("ladle") / "stack.json"


def write_stack(stack: Stack, path: Path | None = None) -> Path:
    """Writes the file in one step, readable by its owner alone: it holds a token."""
    path = path or stack_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(stack), file)
    temporary.replace(path)
    return path


def read_stack(path: Path | None = None) -> Stack | None:
    """The stack that runs now; None without a file, or when the process that wrote it has ended."""
    path = path or stack_path()
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    stack = _parse(text, path)
    return stack if _is_alive(stack.pid) else None


def remove_stack(pid: int, path: Path | None = None) -> bool:
    """Removes the file if it is still this process's; whether it was."""
    path = path or stack_path()
    try:
        stack = _parse(path.read_text(), path)
    except FileNotFoundError:
        return False
    if stack.pid != pid:
        return False
    path.unlink(missing_ok=True)
    return True


def _parse(text: str, path: Path) -> Stack:
    try:
        fields: dict[str, Any] = json.loads(text)
        stack = Stack(url=fields["url"], token=fields.get("token"), pid=fields["pid"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path} is not a file that `ladle up` wrote; delete it.") from error
    if not (isinstance(stack.url, str) and isinstance(stack.pid, int) and isinstance(stack.token, str | None)):
        raise ConfigurationError(f"{path} is not a file that `ladle up` wrote; delete it.")
    return stack


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as somebody else
        return True
    return True

"""Changes the tokens file: one writer at a time, and a reader sees the old file or the new one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ladle._errors import LadleError
from ladle_contracts.safe_text import one_line
from ladle_contracts.tokens import StoredToken, TokensFileError, parse_line, parse_tokens


class TokensFileUnusable(LadleError):
    """The tokens file cannot be read or written."""


def read_tokens(path: Path) -> list[StoredToken]:
    """All tokens. Raises `TokensFileUnusable`."""
    with _translated(path):
        return parse_tokens(path.read_text(encoding="utf-8"), str(path))


def add_token(path: Path, token: StoredToken) -> None:
    """Appends a line, and makes the file if there is none. Raises `TokensFileUnusable`."""
    with _translated(path), _lock(path):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        parse_tokens(text, str(path))
        gap = "\n" if text and not text.endswith("\n") else ""
        _replace(path, f"{text}{gap}{token.line()}\n")


def remove_tokens(path: Path, chosen: Callable[[list[StoredToken]], list[StoredToken]]) -> list[StoredToken]:
    """Removes the lines of the chosen tokens and leaves all others, with comments, as they are."""
    with _translated(path), _lock(path):
        text = path.read_text(encoding="utf-8")
        removed = chosen(parse_tokens(text, str(path)))
        digests = {token.digest for token in removed}
        _replace(path, "".join(line for line in text.splitlines(keepends=True) if _digest(line) not in digests))
        return removed


def _digest(line: str) -> str | None:
    return parse_line(line).digest if line.strip() and not line.strip().startswith("#") else None


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise TokensFileUnusable(one_line(f"The tokens file `{path}` cannot be used: {error}.")) from error
    except TokensFileError as error:
        raise TokensFileUnusable(one_line(str(error))) from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Of the folder, because the file itself is replaced."""
    import fcntl  # does not exist on Windows, where the client works but no service runs

    folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
        os.fsync(folder)
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    """In one step, with the owner and the permissions of the old file. A new one is its owner's alone."""
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if target.exists():
                before = target.stat()
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), before.st_mode & 0o777)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()

"""The operator's roots: whatever a job names, and whatever lies below that, must be inside one of them.

The API checks it when a job is submitted, the agent when the job starts, and the ranks each time they open a file.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ladle_contracts.beneath import PATH_ONLY, open_beneath
from ladle_contracts.far_urls import BadUrl, as_url, is_allowed, local_path, parse_url, shown_url
from ladle_contracts.safe_text import one_line

ATTEMPTS = 8
"""How often links are followed anew where somebody exchanges them meanwhile."""

MACHINE_FAULTS = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH),
        *(errno.ENOTCONN, errno.ECONNREFUSED, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    }
)
"""Say something about a disk or this process, and nothing about a path."""

GLOB = re.compile(r"[*?\[]")
"""What makes a part of a path a glob."""

PathLike = str | os.PathLike[str]


class PathNotAllowed(ValueError):
    """The path does not exist or is outside the allowed roots. The answer is the same, so nobody can probe the disk."""


class Roots:
    """Opens paths below the roots, whose descriptors it holds from the beginning until `close`.

    Links are followed as long as they lead to a place inside, which may be another root. A root that is not there
    allows nothing; one that is a link allows what it leads to now. A root that is a file allows that file: `ladle run`
    allows no more than the job's inputs. Raises `OSError` where a disk does not answer.
    """

    def __init__(self, roots: Sequence[PathLike]) -> None:
        self._held: dict[str, tuple[int, str]] = {}
        """Path without links -> descriptor of the folder, or of a file's folder, and `.` or the file's name; of nested
        roots the inner one first."""
        for real in sorted({os.path.realpath(root) for root in roots}, key=len, reverse=True):
            try:
                folder, name = os.path.split(real) if Path(real).is_file() else (real, ".")
                flags = PATH_ONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                self._held[real] = (os.open(folder, flags), name)
            except OSError as error:
                if error.errno in MACHINE_FAULTS:
                    self.close()
                    raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for descriptor, _ in self._held.values():
            os.close(descriptor)
        self._held = {}

    def open(self, path: PathLike, flags: int = os.O_RDONLY) -> int:
        """A descriptor of a file or folder, to read or, with `O_PATH`, to look at. It never blocks.

        Raises `PathNotAllowed` for what is outside, whether or not it exists, and `OSError`.
        """
        return self._open(path, flags)[0]

    def resolve(self, path: PathLike) -> Path:
        """The path without links, of a regular file or folder.

        Raises `PathNotAllowed` for anything else, and `OSError` where a disk does not answer.
        """
        try:
            descriptor, real = self._open(path, PATH_ONLY)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in MACHINE_FAULTS:
                raise
            raise PathNotAllowed(f"{_shown(path)} must be an existing file or folder inside the roots") from error
        mode = _status_of(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise PathNotAllowed(f"{_shown(path)} must be a regular file or a folder")
        # Without links, `..` can be taken as text.
        return Path(os.path.normpath(real))

    def status(self, path: PathLike) -> os.stat_result:
        """Of what links lead to. Raises as `open`."""
        return _status_of(self.open(path, PATH_ONLY))

    def _open(self, path: PathLike, flags: int) -> tuple[int, str]:
        # Two slashes at the beginning would be kept, and mean the same.
        real = path = re.sub("^/+", "/", os.fspath(path))
        for _ in range(ATTEMPTS):
            # Most paths have no links: then the first attempt, which looks for none, is all there is.
            if (below := self._root_of(real)) is not None:
                try:
                    return open_beneath(*below, flags), real
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.EXDEV, errno.EAGAIN):
                        raise
            # Only a hint, because a link may be exchanged right after: what counts is what is opened above.
            real = _real(path)
            if self._root_of(real) is None:
                break
        else:
            # A link that leads to itself leads nowhere, so not out: that is an `OSError` as everywhere else.
            _real(path, strict=True)
        raise PathNotAllowed(f"{_shown(path)} must be inside the allowed folders")

    def _root_of(self, path: str) -> tuple[int, str] | None:
        """The descriptor of the root in which a path lies by its text, and the rest of the path."""
        for root, (descriptor, name) in self._held.items():
            if path == root:
                return descriptor, name
            if name == "." and path.startswith(root.rstrip("/") + "/"):
                return descriptor, path[len(root) :].lstrip("/") or "."
        return None


def resolve_inside(path: PathLike, roots: Sequence[Path], *, field: str = "path") -> Path:
    """The path without links and `..`.

    Raises `PathNotAllowed`, whose message names `field` and the path as given, and `OSError` as `Roots.resolve`.
    """
    refused = PathNotAllowed(
        f"`{field}` must be an existing file or folder inside the allowed folders, but {_shown(path)} is not. Ask the "
        f"operator which folders are allowed."
    )
    if not Path(path).is_absolute():
        raise refused
    try:
        with Roots(roots) as held:
            return held.resolve(path)
    except PathNotAllowed as error:
        raise refused from error


def resolve_anywhere(
    path: str, roots: Sequence[Path], far_roots: Sequence[str], *, field: str = "path", may_be_glob: bool = False
) -> str:
    """The same for a path that may be an address, which must be at or below one of `far_roots`. Nobody asks whether
    there is anything. Raises as `resolve_inside`."""
    url = as_url(path)
    try:
        local = path if url is None else local_path(url)
        if local is not None:
            resolve = resolve_input if may_be_glob else resolve_inside
            return str(resolve(local, roots, field=field))
        assert url is not None
        if is_allowed(parse_url(url), far_roots):
            return str(parse_url(url))
        why = "is not"
    except BadUrl as error:
        why = f"is not usable: {error}"
    raise PathNotAllowed(
        f"`{field}` must be at or below an allowed address, but `{one_line(shown_url(path))}` {why}. Ask the operator "
        f"which addresses are allowed."
    )


def resolve_input(path: PathLike, roots: Sequence[Path], *, field: str = "path") -> Path:
    """The same for a path that may be a glob: what has no wildcards is resolved, and the rest stays behind it.

    What the glob matches is not looked at here.
    """
    refused: PathNotAllowed | None = None
    for folder, rest in splits(path):
        try:
            return resolve_inside(folder, roots, field=field) / rest
        except PathNotAllowed as error:
            refused = refused or error
    assert refused is not None, "the path itself is the first one"
    raise refused


def splits(path: PathLike) -> Iterator[tuple[Path, Path]]:
    """A path as a folder and the glob in it: first as it is, because a name may have such signs; then shorter folders.

    A glob that leads back by `..` is none.
    """
    yield Path(path), Path()
    for folder in Path(path).parents:
        rest = Path(path).relative_to(folder)
        if GLOB.search(rest.parts[0]) and ".." not in rest.parts:
            yield folder, rest


def _real(path: str, *, strict: bool = False) -> str:
    try:
        return os.path.realpath(path, strict=strict)
    except RecursionError as error:
        # Python follows each link within the one before. The kernel stops after 40.
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from error


def _status_of(descriptor: int) -> os.stat_result:
    """Closes the descriptor."""
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _shown(path: PathLike) -> str:
    return f"`{one_line(os.fspath(path))}`"

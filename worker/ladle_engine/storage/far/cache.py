"""The local copy of far files: a mirror of their folders in which blocks appear as they are fetched.

What stands where is in a small database: a file by its address, version (ETag) and size, a block with its SHA-256. A
file of another version is another file. What was fetched by a process that is gone is hashed before it is believed, so
neither a crash nor a bad disk does harm. The least recently used files go when there is no room.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ladle_engine.errors import EngineError
from ladle_engine.far_names import show_mirror
from ladle_engine.far_urls import FarUrl
from ladle_engine.progress import pulse
from ladle_engine.storage.far.presence import Range
from ladle_engine.storage.far.stores import FarFile
from ladle_engine.storage.input_file import COUNTS

BLOCK_BYTES = 1 << 20
DEFAULT_BYTES = 200_000_000_000
SPARE_BYTES = 256 << 20
"""Of a disk, which is never filled."""
LOCK_POLL_S = 0.1
TABLES = """
create table if not exists files (
    id integer primary key autoincrement, path text unique not null, tag text not null, size integer not null,
    used real not null);
create table if not exists blocks (
    file integer not null references files (id) on delete cascade, number integer not null, sha256 blob not null,
    primary key (file, number)) without rowid;
"""


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """A far file, and where it lies here."""

    far: FarFile
    path: Path
    number: int
    """In the database."""

    @property
    def num_blocks(self) -> int:
        return -(-self.far.size // BLOCK_BYTES)

    def blocks(self, ranges: Sequence[Range] | None) -> range | list[int]:
        """All, or those that hold the ranges."""
        if ranges is None:
            return range(self.num_blocks)
        numbers = (range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)) for start, stop in ranges if start < stop)
        return sorted({number for each in numbers for number in each if number < self.num_blocks})

    def block(self, number: int) -> Range:
        return number * BLOCK_BYTES, min((number + 1) * BLOCK_BYTES, self.far.size)


class Cache:
    """One folder, which several processes may use at once."""

    def __init__(self, folder: Path, most_bytes: int = DEFAULT_BYTES) -> None:
        """Raises `OSError` where it cannot be made."""
        (folder / "leases").mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self.folder = Path(os.path.realpath(folder))
        self.mirror = self.folder / "mirror"
        self.mirror.mkdir(exist_ok=True)
        self.most_bytes = most_bytes
        self._database = sqlite3.connect(
            self.folder / "index.sqlite", timeout=60, isolation_level=None, check_same_thread=False
        )
        self._lock = threading.RLock()
        self._believed: set[tuple[int, int]] = set()
        """File and block: fetched or hashed by this process."""
        with self._lock:
            self._database.execute("pragma journal_mode = wal")
            self._database.execute("pragma synchronous = normal")
            self._database.execute("pragma foreign_keys = on")
            self._database.executescript(TABLES)
        show_mirror(str(self.mirror))

    def close(self) -> None:
        self._database.close()

    def path_of(self, url: FarUrl) -> Path:
        return self.mirror / url.scheme / url.place / url.path

    def is_mirrored(self, path: Path) -> bool:
        return path.is_relative_to(self.mirror)

    @contextmanager
    def held(self, urls: Collection[FarUrl]) -> Iterator[None]:
        """Inside, nothing at or below these addresses goes to make room, also for other processes."""
        path = self.folder / "leases" / uuid.uuid4().hex
        unlocked = path.with_name(f".{path.name}")
        with unlocked.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            json.dump([str(self.path_of(url)) for url in urls], file)
            file.flush()
            unlocked.rename(path)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def lay_out(self, url: FarUrl, files: Sequence[FarFile]) -> list[Mirrored]:
        """Makes the folder look like the far one: new files are holes, and what is no longer there goes.

        Raises `EngineError` where the local disk cannot hold such names.
        """
        kept = {self.path_of(each.url) for each in files}
        with self._transaction():
            for path in self._known_below(self.path_of(url)):
                if path not in kept:
                    self._forget(path)
            return [self._lay_out(each) for each in files]

    def missing(self, file: Mirrored, ranges: Sequence[Range] | None) -> list[int]:
        """The blocks that are not here, or not what they were."""
        with self._lock:
            rows = self._database.execute("select number, sha256 from blocks where file = ?", (file.number,))
            known = dict(rows.fetchall())
        found = [number for number in file.blocks(ranges) if not self._is_here(file, number, known.get(number))]
        with self._lock, suppress(sqlite3.Error):
            self._database.execute("update files set used = ? where id = ?", (time.time(), file.number))
        return found

    def keep(self, file: Mirrored, first: int, content: bytes) -> None:
        """Blocks from `first` on."""
        parts = [content[start : start + BLOCK_BYTES] for start in range(0, len(content), BLOCK_BYTES)]
        descriptor = os.open(file.path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            _write_all(descriptor, content, first * BLOCK_BYTES)
        finally:
            os.close(descriptor)
        COUNTS.wrote(len(content))
        rows = [(file.number, first + index, hashlib.sha256(part).digest()) for index, part in enumerate(parts)]
        with self._transaction():
            try:
                self._database.executemany("insert or replace into blocks values (?, ?, ?)", rows)
            except sqlite3.IntegrityError:
                # Another process has found another version at this address.
                return
        self._believed |= {(number, block) for number, block, _ in rows}

    def settle(self, file: Mirrored) -> None:
        """Once its blocks were written: it has the time of the far file again."""
        with suppress(FileNotFoundError):
            _set_time(file.path, file.far.modified_s)

    @contextmanager
    def locked(self, file: Mirrored) -> Iterator[None]:
        """One process at a time fetches a file; others wait, and then find what it has fetched."""
        with file.path.open("rb") as opened:
            while True:
                try:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    pulse()
                    time.sleep(LOCK_POLL_S)
            yield

    def make_room(self, needed: int) -> None:
        """Removes what was not used for longest, and that nobody holds. Raises `EngineError` (disk-full)."""
        with self._transaction():
            held = self._held_paths()
            used = self._used()
            free = shutil.disk_usage(self.folder).free - SPARE_BYTES
            for path, num_bytes in self._oldest():
                if used + needed <= self.most_bytes and needed <= free:
                    break
                if not any(path.is_relative_to(each) for each in held):
                    self._forget(path)
                    used, free = used - num_bytes, free + num_bytes
        if used + needed > self.most_bytes:
            raise EngineError(
                "disk-full",
                f"Far files of {needed:,} bytes must be fetched, but the cache may hold {self.most_bytes:,} bytes, and "
                f"jobs that run now hold {used:,} of them. Let `LADLE_FAR_CACHE_BYTES` be larger.",
            )
        if needed > free:
            raise EngineError(
                "disk-full",
                f"Far files of {needed:,} bytes must be fetched, but the disk of the cache `{self.folder}` has "
                f"{max(free, 0):,} bytes to give. Make room, or let `LADLE_FAR_CACHE` be a folder on a larger disk.",
            )

    def _lay_out(self, far: FarFile) -> Mirrored:
        path = self.path_of(far.url)
        row = self._database.execute("select id, tag, size from files where path = ?", (self._key(path),)).fetchone()
        is_same = row is not None and far.tag and (row[1], row[2]) == (far.tag, far.size) and path.is_file()
        if not is_same:
            self._forget(path)
            try:
                _make_hole(path, far.size)
            except OSError as error:
                raise EngineError(
                    "unreadable-input", f"`{far.url}` cannot be kept in the local cache: {error.strerror}."
                ) from error
            row = self._database.execute(
                "insert into files (path, tag, size, used) values (?, ?, ?, ?) returning id",
                (self._key(path), far.tag, far.size, time.time()),
            ).fetchone()
        _set_time(path, far.modified_s)
        return Mirrored(far=far, path=path, number=row[0])

    def _is_here(self, file: Mirrored, number: int, sha256: bytes | None) -> bool:
        if sha256 is None or (file.number, number) in self._believed:
            return sha256 is not None
        start, stop = file.block(number)
        with suppress(OSError), file.path.open("rb") as opened:
            opened.seek(start)
            if hashlib.sha256(opened.read(stop - start)).digest() == sha256:
                self._believed.add((file.number, number))
                pulse()
                return True
        return False

    def _known_below(self, folder: Path) -> list[Path]:
        key = self._key(folder)
        rows = self._database.execute(
            "select path from files where path = ? or substr(path, 1, ?) = ?", (key, len(key) + 1, f"{key}/")
        )
        return [self.mirror / path for (path,) in rows.fetchall()]

    def _forget(self, path: Path) -> None:
        self._database.execute("delete from files where path = ?", (self._key(path),))
        if path.is_dir() and not path.is_symlink():
            # A file has taken the place of a folder, whose files are forgotten by their own names.
            with suppress(OSError):
                path.rmdir()
            return
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == self.mirror or not self.is_mirrored(parent):
                break
            try:
                parent.rmdir()
            except OSError:
                break

    def _oldest(self) -> list[tuple[Path, int]]:
        rows = self._database.execute(
            "select path, (select count(*) from blocks where file = id) * ? from files order by used", (BLOCK_BYTES,)
        )
        return [(self.mirror / path, num_bytes) for path, num_bytes in rows.fetchall() if num_bytes]

    def _used(self) -> int:
        (count,) = self._database.execute("select count(*) from blocks").fetchone()
        return int(count) * BLOCK_BYTES

    def _held_paths(self) -> list[Path]:
        held = []
        for path in (self.folder / "leases").glob("[!.]*"):
            with suppress(OSError, ValueError), path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    held += [Path(each) for each in json.load(file)]
                else:
                    # Its process is gone.
                    path.unlink(missing_ok=True)
        return held

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._database.execute("rollback")
                raise
            self._database.execute("commit")

    def _key(self, path: Path) -> str:
        return str(path.relative_to(self.mirror))


def _make_hole(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.truncate(size)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _set_time(path: Path, modified_s: float | None) -> None:
    """A checkpoint's order may be by time. A file that has its time already keeps it, as others may read it."""
    if modified_s is not None and abs(path.stat().st_mtime - modified_s) > 1e-3:
        os.utime(path, (modified_s, modified_s))


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count

"""Fetches far files into their mirror: whole folders of data, and of checkpoints the bytes that will be read."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ladle_engine.errors import EngineError
from ladle_engine.far_urls import FarUrl, is_allowed
from ladle_engine.progress import Pace, ProgressCallback, ignore, pulse
from ladle_engine.storage.far import faults
from ladle_engine.storage.far.cache import BLOCK_BYTES, Cache, Mirrored
from ladle_engine.storage.far.presence import Parts, Range, merged
from ladle_engine.storage.far.stores import CONNECTIONS, Access, list_files, read_range, read_whole
from ladle_engine.storage.input_file import changed

REQUEST_BLOCKS = 16
SMALL_BYTES = 256 << 10
"""Files of this size are fetched with the first ones: configs, indices, notes of a trainer."""
FILES_AT_ONCE = CONNECTIONS
MIB = 1 << 20
WHOLE_SHARE = 0.9
"""A file of which so much is needed is fetched whole: then its digest is that of the file."""
MAGIC = re.compile(r"[*?\[]")
MOST_RECORDED = 10_000
WAIT_S = 0.5


class Mirror:
    """The far folders of one job. `presence.Source` for whoever reads them."""

    def __init__(
        self, cache: Cache, access: Access, on_event: ProgressCallback, allowed: Sequence[str] | None = None
    ) -> None:
        """`allowed` are the addresses at or below which everything must be; None allows all."""
        self.cache = cache
        self.store_access = access
        self._on_event = on_event
        self._allowed = allowed
        self._files: dict[Path, Mirrored] = {}
        self._roots: list[FarUrl] = []
        self._asked: dict[Path, list[Range]] = {}
        """What was wanted of files of which not all is here."""
        self._parts: dict[Path, Parts] = {}
        self._whole: set[Path] = set()
        self._read: set[Path] = set()
        self._resources = ExitStack()
        self._lock = threading.Lock()

    def close(self) -> None:
        self._resources.close()

    def add(self, url: FarUrl, argument: str) -> None:
        """Lists a far file or folder, which then appears at `cache.path_of`. Raises `EngineError`."""
        if self._allowed is not None and not is_allowed(url, self._allowed):
            raise EngineError(
                "path-not-allowed",
                f"`{argument}` must be at or below an allowed address, but is `{url}`. Ask the operator which are "
                f"allowed.",
            )
        if url in self._roots:
            return
        self._resources.enter_context(self.cache.held([url]))
        files = self.cache.lay_out(url, list_files(url, self.store_access))
        self._roots.append(url)
        self._files |= {file.path: file for file in files}

    def files_below(self, path: Path) -> list[Path]:
        """Itself, where it is a file."""
        return [each for each in self._files if each == path or each.is_relative_to(path)]

    def small_below(self, path: Path) -> list[Path]:
        """What every look at a folder of checkpoints opens; also of a glob, whose folders hold it."""
        folder = next(each for each in (path, *path.parents) if not MAGIC.search(each.name))
        return [each for each in self.files_below(folder) if self._files[each].far.size <= SMALL_BYTES]

    def want(self, path: Path, start: int, stop: int | None) -> None:
        file = self._files.get(path)
        if file is None or path in self._whole:
            return
        is_whole = start == 0 and (stop is None or stop >= file.far.size)
        asked = self._asked.setdefault(path, [])
        wanted = (start, min(file.far.size, file.far.size if stop is None else stop))
        if not is_whole and any(each[0] <= wanted[0] and wanted[1] <= each[1] for each in asked):
            return
        self._fetch({path: None if is_whole else [wanted]}, quietly=True)
        self._asked[path] = merged([*asked, wanted])

    def parts(self, path: Path) -> Parts | None:
        return self._parts.get(path)

    def is_mirrored(self, path: Path) -> bool:
        return self.cache.is_mirrored(path)

    def fetch(self, wanted: Mapping[Path, Parts | None]) -> None:
        for path, parts in wanted.items():
            file = self._files.get(path)
            if file is None or parts is None or path in self._whole:
                continue
            needed = merged([*parts, *self._asked.get(path, ())])
            if sum(stop - start for start, stop in needed) < WHOLE_SHARE * file.far.size:
                self._parts[path] = needed
        self._fetch({path: self._parts.get(path) for path in wanted})

    def what_is_here(self) -> dict[str, list[Range] | None]:
        """Path -> the bytes that may be read, None for all."""
        known: dict[str, list[Range] | None] = {str(path): list(ranges) for path, ranges in self._asked.items()}
        return known | {str(path): None for path in self._whole}

    def partial(self) -> dict[str, list[Range]]:
        """Path -> the bytes that make its digest, of files of which not all is read."""
        return {str(path): list(parts) for path, parts in self._parts.items()}

    def refuse_changed(self) -> None:
        for url in self._roots:
            now = {self.cache.path_of(each.url): each for each in list_files(url, self.store_access)}
            for path in self.files_below(self.cache.path_of(url)):
                if path not in self._read:
                    continue
                before, found = self._files[path].far, now.get(path)
                if found is None:
                    raise changed(str(before.url), "is gone")
                if (found.tag, found.size) != (before.tag, before.size):
                    raise changed(str(before.url), "was replaced by another file")

    def record(self) -> dict[str, str]:
        read = sorted(self._read)[:MOST_RECORDED]
        return {str(self._files[path].far.url): self._files[path].far.tag for path in read}

    def _fetch(self, wanted: Mapping[Path, Parts | None], *, quietly: bool = False) -> None:
        files = {file: ranges for path, ranges in wanted.items() if (file := self._files.get(path)) is not None}
        self._read |= {file.path for file in files}
        missing = {file: len(self.cache.missing(file, ranges)) for file, ranges in files.items()}
        due = {file: files[file] for file, number in missing.items() if number}
        if due:
            self._fetch_missing(due, sum(missing.values()), quietly)
        self._whole |= {file.path for file, ranges in files.items() if ranges is None}
        for file, ranges in files.items():
            if ranges is not None:
                self._asked[file.path] = merged([*self._asked.get(file.path, ()), *ranges])

    def _fetch_missing(self, files: Mapping[Mirrored, Parts | None], num_missing: int, quietly: bool) -> None:
        self.cache.make_room(num_missing * BLOCK_BYTES)
        pace = Pace(ignore if quietly else self._on_event, "fetch", -(-num_missing * BLOCK_BYTES // MIB), unit="bytes")
        done = 0

        def told(blocks: int) -> None:
            nonlocal done
            with self._lock:
                done += blocks
                pace.step(min(done * BLOCK_BYTES // MIB, pace.total), amount=done * BLOCK_BYTES)

        with _stoppable_pool(CONNECTIONS) as requests, _stoppable_pool(FILES_AT_ONCE) as pool:
            _finish([pool.submit(self._fetch_file, file, ranges, requests, told) for file, ranges in files.items()])

    def _fetch_file(
        self, file: Mirrored, ranges: Parts | None, requests: ThreadPoolExecutor, told: Callable[[int], None]
    ) -> None:
        if not self.cache.missing(file, ranges):
            return
        with self.cache.locked(file):
            missing = self.cache.missing(file, ranges)
            if missing and not file.far.in_parts:
                self._fetch_in_one(file)
                told(len(missing))
            else:
                _finish([requests.submit(self._fetch_run, file, run, told) for run in _runs(missing)])
            self.cache.settle(file)

    def _fetch_run(self, file: Mirrored, run: range, told: Callable[[int], None]) -> None:
        start, stop = file.block(run[0])[0], file.block(run[-1])[1]
        self.cache.keep(file, run[0], read_range(file.far, start, stop, self.store_access))
        pulse()
        told(len(run))

    def _fetch_in_one(self, file: Mirrored) -> None:
        """From a server that sends no ranges."""
        temporary = file.path.with_name(f".{file.path.name}.whole.tmp")
        try:
            read_whole(file.far, temporary, self.store_access)
            with temporary.open("rb") as opened:
                for first in range(0, file.num_blocks, REQUEST_BLOCKS):
                    self.cache.keep(file, first, opened.read(REQUEST_BLOCKS * BLOCK_BYTES))
        finally:
            temporary.unlink(missing_ok=True)


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Numbers that follow each other, a request's worth at a time."""
    start = 0
    for index in range(1, len(numbers) + 1):
        is_over = index == len(numbers) or numbers[index] != numbers[index - 1] + 1 or index - start == REQUEST_BLOCKS
        if is_over:
            yield range(numbers[start], numbers[index - 1] + 1)
            start = index


@contextmanager
def _stoppable_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """On an error, what has not begun does not begin, and nobody tries again."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    except BaseException:
        faults.stopping.set()
        pool.shutdown(cancel_futures=True)
        faults.stopping.clear()
        raise
    pool.shutdown()


def _finish(futures: Sequence[Future[None]]) -> None:
    """Raises the first error of theirs, while the others are given up."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, WAIT_S)
        pulse()
        for each in done:
            if (error := each.exception()) is not None:
                for other in waiting:
                    other.cancel()
                raise error

"""Fetches far files into their mirror: whole folders of data, and of checkpoints the bytes that will be read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ladle_engine.far_urls import FarUrl
from ladle_engine.progress import Pace, ProgressCallback, pulse
from ladle_engine.storage.far import faults
from ladle_engine.storage.far.cache import BLOCK_BYTES, Cache, Mirrored
from ladle_engine.storage.far.presence import Parts
from ladle_engine.storage.far.stores import CONNECTIONS, Access, list_files, read_range, read_whole
from ladle_engine.storage.input_file import changed

REQUEST_BLOCKS = 16
SMALL_BYTES = 256 << 10
"""Files of this size are fetched with the first ones: configs, indices, notes of a trainer."""
FILES_AT_ONCE = 4
MIB = 1 << 20
MOST_RECORDED = 10_000
WAIT_S = 0.5


class Mirror:
    """The far folders of one job. `presence.Source` for whoever reads them."""

    def __init__(self, cache: Cache, access: Access, on_event: ProgressCallback) -> None:
        self._cache = cache
        self._access = access
        self._on_event = on_event
        self._files: dict[Path, Mirrored] = {}
        self._roots: list[FarUrl] = []
        self._parts: dict[Path, Parts] = {}
        self._read: set[Path] = set()
        self._resources = ExitStack()
        self._lock = threading.Lock()

    def close(self) -> None:
        self._resources.close()

    def add(self, url: FarUrl) -> Path:
        """Lists a far file or folder, and says where it appears. Raises `EngineError`."""
        self._resources.enter_context(self._cache.held([url]))
        files = self._cache.lay_out(url, list_files(url, self._access))
        self._roots.append(url)
        self._files |= {file.path: file for file in files}
        return self._cache.path_of(url)

    def files_below(self, path: Path) -> list[Path]:
        return [each for each in self._files if each == path or each.is_relative_to(path)]

    def fetch_small(self, path: Path) -> None:
        """What every look at a folder of checkpoints opens."""
        small = [each for each in self.files_below(path) if self._files[each].far.size <= SMALL_BYTES]
        self._fetch(dict.fromkeys(small))

    def want(self, path: Path, start: int, stop: int | None) -> None:
        file = self._of(path)
        if file is None:
            return
        self._read.add(file.path)
        ranges = None if stop is None and start == 0 else [(start, file.far.size if stop is None else stop)]
        if missing := self._missing(file, ranges):
            self._cache.make_room(len(missing) * BLOCK_BYTES)
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                self._fetch_file(file, ranges, pool, _ignore)

    def parts(self, path: Path) -> Parts | None:
        return self._parts.get(path)

    def fetch(self, wanted: dict[Path, Parts | None]) -> None:
        for path, parts in wanted.items():
            if parts is not None and self._of(path) is not None:
                self._parts[path] = parts
        self._fetch(wanted)

    def refuse_changed(self) -> None:
        for url in self._roots:
            now = {self._cache.path_of(each.url): each for each in list_files(url, self._access)}
            for path in self.files_below(self._cache.path_of(url)):
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

    def _of(self, path: Path) -> Mirrored | None:
        """None for a path elsewhere, and for what a far folder does not have."""
        return self._files.get(path)

    def _fetch(self, wanted: Mapping[Path, Parts | None]) -> None:
        files = {file: ranges for path, ranges in wanted.items() if (file := self._of(path)) is not None}
        self._read |= {file.path for file in files}
        num_missing = sum(len(self._missing(file, ranges)) for file, ranges in files.items())
        if not num_missing:
            return
        self._cache.make_room(num_missing * BLOCK_BYTES)
        pace = Pace(self._on_event, "fetch", -(-num_missing * BLOCK_BYTES // MIB))
        done = 0

        def told(blocks: int) -> None:
            nonlocal done
            with self._lock:
                done += blocks
                pace.step(min(done * BLOCK_BYTES // MIB, pace.total))

        with _stoppable_pool(CONNECTIONS) as requests, _stoppable_pool(FILES_AT_ONCE) as pool:
            _finish([pool.submit(self._fetch_file, file, ranges, requests, told) for file, ranges in files.items()])

    def _fetch_file(
        self, file: Mirrored, ranges: Parts | None, requests: ThreadPoolExecutor, told: Callable[[int], None]
    ) -> None:
        if not self._missing(file, ranges):
            return
        with self._cache.locked(file):
            missing = self._missing(file, ranges)
            if missing and not file.far.in_parts:
                self._fetch_in_one(file)
                told(len(missing))
            else:
                _finish([requests.submit(self._fetch_run, file, run, told) for run in _runs(missing)])
            self._cache.settle(file)

    def _fetch_run(self, file: Mirrored, run: range, told: Callable[[int], None]) -> None:
        start, stop = file.block(run[0])[0], file.block(run[-1])[1]
        self._cache.keep(file, run[0], read_range(file.far, start, stop, self._access))
        pulse()
        told(len(run))

    def _fetch_in_one(self, file: Mirrored) -> None:
        """From a server that sends no ranges."""
        temporary = file.path.with_name(f".{file.path.name}.whole.tmp")
        try:
            read_whole(file.far, temporary, self._access)
            with temporary.open("rb") as opened:
                for first in range(0, file.num_blocks, REQUEST_BLOCKS):
                    self._cache.keep(file, first, opened.read(REQUEST_BLOCKS * BLOCK_BYTES))
        finally:
            temporary.unlink(missing_ok=True)

    def _missing(self, file: Mirrored, ranges: Parts | None) -> list[int]:
        return self._cache.missing(file, ranges)


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


def _ignore(blocks: int) -> None:
    return

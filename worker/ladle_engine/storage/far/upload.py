"""A result in a far store: first a marker, then the files, which are read back, then the report, and the marker goes.

A folder with the marker is half of a result. The next try removes it and begins anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ladle_engine.errors import EngineError, OutputError
from ladle_engine.far_urls import OVER_HTTP, FarUrl
from ladle_engine.progress import Pace, ProgressCallback, pulse
from ladle_engine.storage.far.stores import (
    Access,
    FarFile,
    blocks_of,
    list_files,
    put_bytes,
    put_file,
    remove_file,
)

MARKER = ".ladle-upload.json"
LAST = ("report.json",)
"""Says that there is a result, so it comes after all else."""
FILES_AT_ONCE = 4


@contextmanager
def uploaded(url: FarUrl, access: Access, workshop: Path, on_event: ProgressCallback) -> Iterator[Path]:
    """A local folder to make, which is uploaded when the block succeeds. Raises `OutputError`."""
    refuse_existing(url, access)
    workshop.mkdir(parents=True, exist_ok=True)
    place = workshop / uuid.uuid4().hex
    place.mkdir()
    try:
        # Named as the result is, for a result says its own name.
        folder = place / (url.path.rpartition("/")[2] or url.place)
        yield folder
        if folder.is_dir():
            with _as_output():
                upload(folder, url, access, on_event)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def refuse_existing(url: FarUrl, access: Access) -> None:
    """Raises `OutputError`: output-exists, unless there is nothing but what an upload has left that did not end."""
    if url.scheme in OVER_HTTP:
        raise OutputError("results-unwritable", f"`output=` must be a folder that can be made, but is `{url}`.")
    names = [each.name for each in _existing(url, access)]
    if names and MARKER not in names:
        raise OutputError("output-exists", f"`output=` must be a new folder, but `{url}` exists. Choose another name.")


def upload(folder: Path, url: FarUrl, access: Access, on_event: ProgressCallback) -> None:
    """Whole or, to whoever looks for the marker, not at all. Raises `EngineError`."""
    refuse_existing(url, access)
    paths = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.name in LAST)
    names = [path.relative_to(folder).as_posix() for path in paths]
    put_bytes(json.dumps({"files": names}).encode(), url.below(MARKER), access)
    for left in _existing(url, access):
        if left.name != MARKER:
            remove_file(left.url, access)
    early = [name for name in names if name not in LAST]
    late = [name for name in names if name in LAST]
    pace = Pace(on_event, "upload", len(names))
    for done, _ in enumerate(_in_parallel(folder, url, early, access), start=1):
        pulse()
        pace.step(done)
    _verify(folder, url, early, access)
    for done, name in enumerate(late, start=len(early) + 1):
        put_file(folder / name, url.below(name), access)
        pace.step(done)
    _verify(folder, url, late, access)
    remove_file(url.below(MARKER), access)


def _in_parallel(folder: Path, url: FarUrl, names: Sequence[str], access: Access) -> Iterator[str]:
    def put(name: str) -> str:
        put_file(folder / name, url.below(name), access)
        return name

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        yield from pool.map(put, names)


def _verify(folder: Path, url: FarUrl, names: Sequence[str], access: Access) -> None:
    """Reads back what was written."""
    there = {each.name: each for each in _existing(url, access)}
    for name in names:
        with (folder / name).open("rb") as file:
            expected = hashlib.file_digest(file, "sha256").hexdigest()
        found = there.get(name)
        if found is None or found.size != (folder / name).stat().st_size or _sha256(found, access) != expected:
            raise OutputError(
                "results-unwritable",
                f"`{url.below(name)}` must hold what was written, but does not. Try again.",
            )


def _sha256(file: FarFile, access: Access) -> str:
    sha256 = hashlib.sha256()
    for block in blocks_of(file, access):
        sha256.update(block)
    return sha256.hexdigest()


def _existing(url: FarUrl, access: Access) -> list[FarFile]:
    with _as_output():
        return list_files(url, access, may_be_empty=True)


@contextmanager
def _as_output() -> Iterator[None]:
    """What fails of a store is about the output here."""
    try:
        yield
    except OutputError:
        raise
    except EngineError as error:
        code = "results-unwritable" if error.code == "unreadable-input" else error.code
        raise OutputError(code, f"The result cannot be written: {error.message}") from error

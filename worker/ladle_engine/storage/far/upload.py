"""A result in a far store: first a marker, then the files, which are verified, then the report; last, the marker goes.

A folder with a marker is half of a result. The next try by the same owner removes it and begins anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ladle_engine.errors import EngineError, OutputError
from ladle_engine.far_urls import OVER_HTTP, FarUrl
from ladle_engine.progress import Pace, ProgressCallback, pulse
from ladle_engine.storage.far.checksums import is_told_by
from ladle_engine.storage.far.faults import is_missing
from ladle_engine.storage.far.stores import (
    Access,
    FarFile,
    blocks_of,
    list_files,
    put_bytes,
    put_file,
    read_range,
    remove_file,
)

MARKER = ".ladle-upload-"
"""How the name of a marker begins: each upload has its own, so none takes away another's."""
REPORT = "report.json"
LAST = (REPORT,)
"""Says that there is a result, so it comes after all else."""
FILES_AT_ONCE = 4
MOST_BYTES = 64 << 20
"""Of a report or a marker."""


def nothing() -> None:
    """What is waited for by default."""


@dataclass(frozen=True)
class Place:
    """What is at an address where a result shall be."""

    files: Mapping[str, FarFile]
    """By name, without markers."""
    markers: Mapping[str, FarFile]
    jobs: frozenset[str | None]
    """Whose uploads have not ended; None for one of the library."""
    provenance: Mapping[str, Any]
    """Of a whole result: which job and attempt made it. Empty if no job did, or it is not whole."""

    def is_free_for(self, job_id: str | None) -> bool:
        """Nothing is there but what an upload of the same owner has left."""
        return self.jobs == {job_id} if self.markers else not self.files


@dataclass(kw_only=True)
class Upload:
    """One result on its way: `send`, then `publish`."""

    folder: Path
    url: FarUrl
    access: Access
    job_id: str | None = None
    """The owner; None for a call of the library."""
    wait: Callable[[], None] = nothing
    """Called before each request that writes: returns when it may, or raises."""
    _token: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _sent: dict[str, FarFile] = field(default_factory=dict)

    def send(self, on_event: ProgressCallback) -> None:
        """All but the report. Raises `EngineError`; what it leaves then is marked as half."""
        refuse_existing(self.url, self.access, self.job_id)
        mark(self.url, self.access, self._token, self.job_id, self.wait)
        # Another may have begun at the same moment. Then both give up.
        try:
            refuse_existing(self.url, self.access, self.job_id)
        except OutputError:
            remove_file(self._marker, self.access)
            raise
        self._remove_left()
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        names = [path.relative_to(self.folder).as_posix() for path in paths]
        early = [name for name in names if name not in LAST]
        pace = Pace(on_event, "upload", len(early))
        for done, _ in enumerate(self._put_in_parallel(early), start=1):
            pulse()
            pace.step(done)
        self._verify(early)

    def publish(self) -> None:
        """The report, if all is as it was sent. From then on the folder is a result. Raises `EngineError`."""
        self._refuse_replaced()
        late = [name for name in LAST if (self.folder / name).is_file()]
        for name in late:
            put_file(self.folder / name, self.url.below(name), self.access, self.wait)
        self._verify(late)
        self._refuse_replaced()
        remove_file(self._marker, self.access, self.wait)

    @property
    def _marker(self) -> FarUrl:
        return self.url.below(f"{MARKER}{self._token}.json")

    def _remove_left(self) -> None:
        place = look(self.url, self.access)
        for left in (*place.files.values(), *place.markers.values()):
            if left.url != self._marker:
                remove_file(left.url, self.access, self.wait)

    def _put_in_parallel(self, names: Sequence[str]) -> Iterator[None]:
        def put(name: str) -> None:
            put_file(self.folder / name, self.url.below(name), self.access, self.wait)

        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            yield from pool.map(put, names)

    def _verify(self, names: Sequence[str]) -> None:
        there = look(self.url, self.access).files
        for name in names:
            found = there.get(name)
            if found is None or not _holds(found, self.folder / name, self.access):
                raise OutputError(
                    "results-unwritable",
                    f"`{self.url.below(name)}` must hold what was written, but does not. Try again.",
                )
            self._sent[name] = found

    def _refuse_replaced(self) -> None:
        place = look(self.url, self.access)
        there = place.files
        if self._marker.path.rpartition("/")[2] not in place.markers:
            raise OutputError(
                "results-unwritable",
                f"`{self._marker}` must stay until the upload has ended, but somebody has removed it. Try again.",
            )
        for name, sent in self._sent.items():
            now = there.get(name)
            if now is None or (now.tag, now.size) != (sent.tag, sent.size):
                raise OutputError(
                    "results-unwritable",
                    f"`{sent.url}` must stay as it was written, but somebody has {'replaced' if now else 'removed'} "
                    f"it. Write results where nobody else writes.",
                )
        if strange := sorted(there.keys() - self._sent.keys()):
            raise OutputError(
                "results-unwritable",
                f"`{self.url}` must hold this result alone, but somebody has written `{strange[0]}` there. Write "
                f"results where nobody else writes.",
            )


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
            with as_output():
                upload = Upload(folder=folder, url=url, access=access)
                upload.send(on_event)
                upload.publish()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def refuse_existing(url: FarUrl, access: Access, job_id: str | None = None) -> None:
    """Raises `OutputError`: output-exists, unless there is nothing but what an upload of this owner has left."""
    if url.scheme in OVER_HTTP:
        raise OutputError("results-unwritable", f"`output=` must be a folder that can be made, but is `{url}`.")
    with as_output():
        place = look(url, access)
    if place.is_free_for(job_id):
        return
    what = "exists"
    if others := sorted(each for each in place.jobs - {job_id} if each):
        what = f"has an upload that job {others[0]} has not ended"
    elif place.jobs - {job_id}:
        what = "has an upload that has not ended"
    raise OutputError("output-exists", f"`output=` must be a new folder, but `{url}` {what}. Choose another name.")


def look(url: FarUrl, access: Access) -> Place:
    """What is there, and whose. Raises `EngineError`."""
    found = {each.name: each for each in list_files(url, access, may_be_empty=True)}
    told = {name: _json(each, access) for name, each in found.items() if name.startswith(MARKER)}
    # Two who withdraw the same result take away each other's.
    markers = {name: found[name] for name, content in told.items() if content is not None}
    files = {name: each for name, each in found.items() if name not in told}
    jobs = frozenset(_job_of(told[name] or {}) for name in markers)
    report = None if markers or REPORT not in files else _json(files[REPORT], access)
    provenance = (report or {}).get("provenance")
    return Place(files=files, markers=markers, jobs=jobs, provenance=provenance if isinstance(provenance, dict) else {})


def withdraw(url: FarUrl, access: Access, job_id: str, attempt: str | None = None) -> bool:
    """Removes a job's result, by one attempt or any, or half of one. Anybody else's folder stays: then False.

    From the first step on it is half of a result. Raises `EngineError`; then it can be called again.
    """
    place = look(url, access)
    made_by = place.provenance
    is_result = made_by.get("job_id") == job_id and attempt in (None, made_by.get("attempt"))
    if not is_result and place.jobs != {job_id}:
        return False
    mark(url, access, uuid.uuid4().hex[:12], job_id, nothing)
    found = look(url, access)
    # The report says that there is a result, so it goes first, and the markers last.
    files = sorted(found.files.values(), key=lambda each: each.name not in LAST)
    for each in (*files, *found.markers.values()):
        remove_file(each.url, access)
        pulse()
    return True


def mark(url: FarUrl, access: Access, token: str, job_id: str | None, wait: Callable[[], None]) -> None:
    put_bytes(json.dumps({"job_id": job_id}).encode(), url.below(f"{MARKER}{token}.json"), access, wait)


@contextmanager
def as_output() -> Iterator[None]:
    """What fails of a store is about the output here. Raises `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except EngineError as error:
        code = "results-unwritable" if error.code == "unreadable-input" else error.code
        raise OutputError(code, f"The result cannot be written: {error.message}") from error


def _holds(found: FarFile, path: Path, access: Access) -> bool:
    """By the checksum that the store tells, or by reading it back."""
    if found.size != path.stat().st_size:
        return False
    if is_told_by(found.tag, path):
        return True
    with path.open("rb") as file:
        expected = hashlib.file_digest(file, "sha256").digest()
    sha256 = hashlib.sha256()
    for block in blocks_of(found, access):
        sha256.update(block)
    return sha256.digest() == expected


def _json(file: FarFile, access: Access) -> Mapping[str, Any] | None:
    """Empty where it is not a JSON object: anybody may have written it. None where it has gone since it was listed."""
    if not 0 < file.size <= MOST_BYTES:
        return {}
    try:
        found = json.loads(read_range(file, 0, file.size, access))
    except (ValueError, RecursionError):
        return {}
    except EngineError as error:
        if is_missing(error):
            return None
        raise
    return found if isinstance(found, dict) else {}


def _job_of(marker: Mapping[str, Any]) -> str | None:
    job_id = marker.get("job_id")
    return job_id if isinstance(job_id, str) else None

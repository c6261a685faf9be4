"""A copy of a job's resume state in Redis, for the next attempt on a node that does not share the folder of results.

The state is kilobytes. A larger one is not copied: on another disk the job then begins anew.
"""

from __future__ import annotations

import base64
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from ladle_worker.claim import Claim

logger = logging.getLogger(__name__)

MOST_BYTES = 4 << 20
COMPUTED_ANEW = "outputs-"
"""Begins the names of files that are not copied: they are large, and the engine computes anew what it misses."""
ATTEMPT = "/attempt"
"""The field that says which attempt has written the copy."""
Times = tuple[int, int]


class StateCopy:
    """One attempt's. `folder` is the state, `mark` a file beside it that names the last attempt that used it."""

    def __init__(
        self, folder: Path, mark: Path, claim: Claim, every_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._mark = mark
        self._claim = claim
        self._every_s = every_s
        self._now = now
        self._sent_at = now()
        self._sent: dict[str, Times] | None = None

    def restore(self) -> None:
        """Before the attempt begins: puts the copy into the place of a state that is older. Raises OSError."""
        if self._claim.attempt > 1:
            copy = self._claim.state_copy()
            if int(copy.pop(ATTEMPT, 0)) > self._last_attempt_here():
                self._replace({name: base64.b64decode(content) for name, content in copy.items()})
        self._mark.write_text(str(self._claim.attempt))

    def send_if_due(self) -> None:
        """Raises `RedisError`."""
        if self._now() - self._sent_at >= self._every_s:
            self.send()

    def send(self) -> None:
        """What has changed since the last time. Raises `RedisError`."""
        self._sent_at = self._now()
        found = self._files()
        before = self._sent or {}
        if found == before:
            return
        if sum(size for _, size in found.values()) > MOST_BYTES:
            logger.warning("the resume state of job %s is too large for a copy in Redis", self._claim.job_id)
            return
        changed = {name: self._content(name) for name in found if found[name] != before.get(name)}
        gone = dict.fromkeys(before.keys() - found.keys(), "")
        self._claim.keep_state(changed | gone, whole=self._sent is None)
        self._sent = found

    def _files(self) -> dict[str, Times]:
        """Name -> time of the last change, and size."""
        found: dict[str, Times] = {}
        # Files come and go while ranks run, and a disk that fails is told of by others.
        with suppress(OSError):
            for path in self._folder.rglob("*"):
                with suppress(FileNotFoundError):
                    if path.is_file() and not path.is_symlink() and not path.name.startswith(COMPUTED_ANEW):
                        status = path.stat()
                        found[path.relative_to(self._folder).as_posix()] = status.st_mtime_ns, status.st_size
        return found

    def _content(self, name: str) -> str:
        """In base64. Empty if it has gone in the meantime."""
        try:
            return base64.b64encode((self._folder / name).read_bytes()[: MOST_BYTES + 1]).decode()
        except OSError:
            return ""

    def _last_attempt_here(self) -> int:
        """0 if none has ever used the folder."""
        try:
            return int(self._mark.read_text())
        except (OSError, ValueError):
            return 0

    def _replace(self, files: Mapping[str, bytes]) -> None:
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        for name, content in files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                continue
            (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self._folder / path).write_bytes(content)

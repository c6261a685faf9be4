"""The far files of one attempt: fetched before the ranks start, and looked at again when they have ended."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from ladle_worker.claim import Claim, Ended
from ladle_worker.far_answers import ended_by
from ladle_worker.far_helper import FarHelper, far_request, with_far
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.settings import Settings
from ladle_worker.watch import Watch


class FarFiles:
    """One attempt's, with the process that fetches them from the beginning to `end`."""

    def __init__(
        self, settings: Settings, claim: Claim, folder: AttemptFolder, watch: Watch, job: dict[str, Any]
    ) -> None:
        self._settings = settings
        self._claim = claim
        self._folder = folder
        self._watch = watch
        self._job = job
        self._helper = FarHelper(folder, far_request(job, settings))

    def fetch(self) -> dict[str, Any] | Ended:
        """The job with local paths, or how the attempt ended before. Raises `Lost` or `DiskFault`."""
        self._note_fetching(begins=True)
        answer = self._watch.follow(self._helper)
        self._note_fetching(begins=False)
        if answer != "ok":
            return self._watch.ended_by(answer)
        found = self._helper.answer()
        if failed := self._failed(found):
            return failed
        assert found is not None, "without an answer it has failed"
        return with_far(self._job, found)

    def refused_as_changed(self) -> Ended | None:
        """None where the far files are still what they were. Raises `Lost` or `DiskFault`."""
        self._helper.ask_whether_changed()
        if ended := self._watch.await_answer(self._helper):
            return ended
        return self._failed(self._helper.answer())

    def end(self) -> None:
        self._helper.end(self._settings.kill_grace_s, self._watch.keep_lease)

    def _note_fetching(self, *, begins: bool) -> None:
        if len(self._claim.nodes) > 1:
            with suppress(RedisError):
                self._claim.note_fetching(begins=begins)

    def _failed(self, found: Mapping[str, Any] | None) -> Ended | None:
        return ended_by(found, "fetches far files", self._folder)

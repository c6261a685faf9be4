"""Which files an unfinished job began with: its next attempt goes on with the same ones, or ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ladle_engine.errors import EngineError, OutputError
from ladle_engine.resume_state import ResumeState, digest
from ladle_engine.storage.inputs import Inputs

FILE = "inputs"


class JobInputs:
    """Kept in the folder of a job's resume state, on rank 0; without one nothing is remembered."""

    def __init__(self, state: ResumeState) -> None:
        self._state = state
        self._known = self._load()

    def begin(self, inputs: Inputs) -> None:
        """Before anything is read whole. Raises `EngineError` (inputs-changed) where an attempt that did not end had
        other files, by name or size."""
        sizes = inputs.summary()
        if not self._known.get("is_over", True):
            self._refuse_others(self._known["sizes"], sizes)
        else:
            self._known = {"sizes": sizes, "digests": {}, "state": self._known.get("state"), "is_over": False}
            self._save()

    def confirm(self, inputs: Inputs) -> None:
        """Once they were read. Raises the same where an attempt that did not end read other bytes; a state that was
        made of other files is discarded."""
        digests = {str(path): sha256 for path, sha256 in inputs.digests.items()}
        self._refuse_others(self._known["digests"] or digests, digests)
        made_of = digest([digests, inputs.times()])
        if self._known["state"] != made_of:
            self._state.discard()
        self._known |= {"digests": digests, "state": made_of}
        self._save()

    def end(self) -> None:
        """No attempt of this job is going to follow: the next one may have other files."""
        self._known["is_over"] = True
        try:
            self._save()
        except OutputError:
            # On a full disk less is remembered, which does no harm: all states are then made anew.
            self._state.forget(FILE)

    def _refuse_others(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for path in [*before, *now]:
            if before.get(path) == now.get(path):
                continue
            how = _how(path in before, path in now)
            raise EngineError(
                "inputs-changed",
                f"An attempt at this job did not end, and the next one must have the same files, but `{path}` {how}. "
                f"Restore it, or begin anew with the files as they are: submit the job again or, in Python, give "
                f"another `state_dir`.",
            )

    def _load(self) -> dict[str, Any]:
        content = self._state.read(FILE)
        known: dict[str, Any] = json.loads(content) if content else {}
        return known

    def _save(self) -> None:
        self._state.write(FILE, json.dumps(self._known).encode())


def _how(was_there: bool, is_there: bool) -> str:
    if was_there and is_there:
        return "has changed"
    return "is gone" if was_there else "was not there before"

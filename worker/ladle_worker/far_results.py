"""Uploads a job's result, and looks after it in its store: `python -m ladle_worker.far_results REQUEST`.

It has the operator's credentials. Each line of stdin is something to do, with an answer as a line on stdout, or until
when the attempt is this node's: it writes nothing after that.
"""

from __future__ import annotations

from ladle_worker.family import die_with_parent

die_with_parent()

import json  # noqa: E402
import os  # noqa: E402
import queue  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator, Mapping  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ladle_contracts.processes import keep_secrets  # noqa: E402
from ladle_engine.far_urls import FarUrl, parse_url  # noqa: E402
from ladle_engine.progress import ProgressCallback, ignore, on_pulse, pulse  # noqa: E402
from ladle_engine.storage.far.stores import Access  # noqa: E402
from ladle_engine.storage.far.upload import Upload, as_output, look, withdraw  # noqa: E402
from ladle_worker.clock import now  # noqa: E402
from ladle_worker.failure import failure_of, log_failure  # noqa: E402
from ladle_worker.job_folder import AttemptFolder  # noqa: E402
from ladle_worker.told import Events, beating  # noqa: E402

POLL_S = 0.05


class Lease:
    """Until when this node may write. The agent says it again and again."""

    def __init__(self, until: float) -> None:
        self.until = until

    def wait(self) -> None:
        """Returns while the attempt is this node's. Its agent ends this process when it no longer is."""
        while now() > self.until:
            pulse()
            time.sleep(POLL_S)


class Results:
    """What can be done with one job's result."""

    def __init__(self, request: Mapping[str, Any], lease: Lease, on_event: ProgressCallback) -> None:
        self._url: FarUrl = parse_url(request["url"])
        self._job_id: str = request["job_id"]
        self._staging: str | None = request.get("staging")
        self._lease = lease
        self._on_event = on_event
        self._access = Access()
        self._upload: Upload | None = None

    def look(self) -> dict[str, Any]:
        """What is at the address."""
        with as_output():
            place = look(self._url, self._access)
        return {
            "free": place.is_free_for(self._job_id),
            "provenance": dict(place.provenance),
            "files": {name: each.size for name, each in place.files.items()},
        }

    def upload(self) -> dict[str, Any]:
        """All but the report."""
        assert self._staging is not None
        self._upload = Upload(
            folder=Path(self._staging),
            url=self._url,
            access=self._access,
            job_id=self._job_id,
            wait=self._lease.wait,
        )
        with as_output():
            self._upload.send(self._on_event)
        return {}

    def publish(self) -> dict[str, Any]:
        """The report: then there is a result."""
        assert self._upload is not None
        with as_output():
            self._upload.publish()
        return {}

    def withdraw(self, attempt: str | None = None) -> dict[str, Any]:
        """Removes the result, or what is there of it."""
        with as_output():
            return {"withdrawn": withdraw(self._url, self._access, self._job_id, attempt)}


def main(request_path: str) -> None:
    keep_secrets()
    answers = os.fdopen(os.dup(1), "w")
    # Whatever a library prints is no answer.
    os.dup2(2, 1)
    request = json.loads(Path(request_path).read_text())
    # Without an attempt nobody else writes there: the job has ended.
    lease = Lease(0.0 if "attempt_folder" in request else float("inf"))
    asked = queue.SimpleQueue[dict[str, Any] | None]()
    threading.Thread(target=_listen, args=(lease, asked), daemon=True).start()
    with _events(request) as on_event:
        results = Results(request, lease, on_event)
        while (question := asked.get()) is not None:
            print(json.dumps(_answer(results, **question)), file=answers, flush=True)


def _listen(lease: Lease, asked: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        said = json.loads(line)
        if "until" in said:
            lease.until = said["until"]
        else:
            asked.put(said)
    asked.put(None)


def _answer(results: Results, do: str, **arguments: Any) -> dict[str, Any]:
    try:
        return {"ok": True, **getattr(results, do)(**arguments)}
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        log_failure(failure, error)
        return {"ok": False, "reason": failure.reason, "message": failure.message, "final": failure.is_final}


@contextmanager
def _events(request: Mapping[str, Any]) -> Iterator[ProgressCallback]:
    if "attempt_folder" not in request:
        yield ignore
        return
    folder = AttemptFolder(Path(request["attempt_folder"]))
    on_pulse(beating(folder.pulse))
    with Events(folder.events) as events:
        yield events.add


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stderr.flush()
    os._exit(0)

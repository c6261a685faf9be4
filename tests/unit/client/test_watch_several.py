"""Several jobs followed at once, of a service that is a function."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from ladle import Client, LadleError, NotFound
from ladle.cli.app import EPILOG
from ladle.cli.console import SafeConsole
from ladle.cli.exits import CANCELLED, EXIT_CODES, FAILED, OK, USAGE, worst
from ladle.cli.watch_several import Several, SeveralView, follow_several, named, unfinished
from ladle_contracts import (
    TERMINAL_STATES,
    CandidateResult,
    CandidateScored,
    ErrorCode,
    Event,
    EventBody,
    JobPage,
    JobRecord,
    JobState,
    Reason,
    StageStarted,
    StateChanged,
    StepDone,
)
from ladle_contracts.api import EventPage
from tests.unit.client.answers import NOW, client, ok, problem, record

STEP = StepDone(stage="train", method="twa", step=24, total=96, rate=12.4, unit="steps", eta_s=6.0)


class Service:
    """Has jobs; a test lets things happen to them."""

    def __init__(self) -> None:
        self.records: dict[str, JobRecord] = {}
        self.events: dict[str, list[Event]] = {}
        self.down = 0
        """How many requests fail from now on."""

    def add(self, job_id: str, state: JobState = JobState.QUEUED, **fields: object) -> None:
        made = record(state, id=job_id, **fields)
        self.records[job_id] = made.model_copy(update={"created_at": NOW + timedelta(seconds=len(self.records))})
        self.events[job_id] = []

    def happen(self, job_id: str, *bodies: EventBody) -> None:
        for body in bodies:
            number = len(self.events[job_id]) + 1
            self.events[job_id].append(Event(id=f"{number}-0", job_id=job_id, attempt=1, time=NOW, body=body))

    def end(self, job_id: str, state: JobState, **fields: object) -> None:
        ended = record(state, id=job_id, **fields)
        self.records[job_id] = ended.model_copy(update={"created_at": self.records[job_id].created_at})
        self.happen(job_id, StateChanged(state=state))

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if self.down:
            self.down -= 1
            return problem(ErrorCode.UNAVAILABLE)
        path = request.url.path.split("/")[3:]
        if not path:
            state = request.url.params.get("state")
            found = [each for each in self.records.values() if state in (None, str(each.state))]
            return ok(JobPage(jobs=tuple(reversed(found))))
        if path[0] not in self.records:
            return problem(ErrorCode.NOT_FOUND, "There is no such job.")
        if path[1:] == ["events"]:
            after = int((request.url.params.get("after") or "0-0").split("-")[0])
            return ok(EventPage(events=tuple(self.events[path[0]][after:])))
        return ok(self.records[path[0]])


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def ladle(service: Service) -> Client:
    return client(service, patience=0.0)


class Script:
    """What happens in the pauses, one after the other."""

    def __init__(self, *acts: Callable[[], None]) -> None:
        self.acts = list(acts)

    def __call__(self, seconds: float) -> None:
        assert self.acts, "it should have ended"
        self.acts.pop(0)()


def console() -> SafeConsole:
    return SafeConsole(file=io.StringIO(), width=200, force_terminal=False)


def told(out: SafeConsole) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_each_line_names_its_job_and_all_is_over_when_the_last_one_has_ended(service: Service, ladle: Client) -> None:
    for job in ("j1", "j2"):
        service.add(job)
    service.happen("j1", StateChanged(state=JobState.RUNNING), StageStarted(stage="train", method="twa"), STEP)
    failed = {"reason": Reason.CORRUPT_CHECKPOINT, "message": "`a` must be whole, but is cut"}
    script = Script(
        lambda: service.end("j2", JobState.FAILED, **failed), lambda: service.end("j1", JobState.SUCCEEDED)
    )  # fmt: skip
    out = console()
    records = follow_several(Several(ladle, named(ladle, ["j1", "j2"])), out, as_json=False, pause=script)
    assert told(out).splitlines() == [
        "j1  running",
        "j1  choosing coefficients",
        "j1  choosing coefficients: twa 24/96  12.4 steps/s  6 s left",
        "j2  failed  `a` must be whole, but is cut [corrupt-checkpoint]",
        "j1  succeeded  twa: accuracy 2.00 points higher  /results/j1",
    ]
    assert worst(records) == FAILED


def test_as_json_there_are_the_events_and_at_the_end_the_records(
    service: Service, ladle: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    for job in ("j1", "j2"):
        service.add(job)
        service.end(job, JobState.SUCCEEDED)
    follow_several(Several(ladle, named(ladle, ["j1", "j2"])), console(), as_json=True, pause=Script())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["job_id"] for line in lines if "body" in line] == ["j1", "j2"]
    assert [(line["id"], line["state"]) for line in lines if "spec" in line] == [
        ("j1", "succeeded"),
        ("j2", "succeeded"),
    ]


def test_all_follows_what_is_unfinished_and_what_is_submitted_later_but_nothing_older(
    service: Service, ladle: Client
) -> None:
    service.add("old", JobState.SUCCEEDED)
    service.add("waits", waiting_for="needs 2 nodes, 1 free")
    service.add("newest", JobState.FAILED)
    several = Several(ladle, unfinished(ladle), new_ones=True)

    def stop() -> None:
        raise KeyboardInterrupt

    def two_more() -> None:
        service.add("later")
        service.add("quick", JobState.SUCCEEDED)
        service.happen("quick", StateChanged(state=JobState.SUCCEEDED))
        several._asked_at = float("-inf")

    out = console()
    with pytest.raises(KeyboardInterrupt):
        follow_several(several, out, as_json=False, pause=Script(two_more, stop))
    assert list(several.jobs) == ["waits", "later", "quick"]
    assert "quick  succeeded" in told(out)
    assert several.jobs["waits"].picture.waits == "needs 2 nodes, 1 free"
    assert not several.is_over, "until Ctrl-C"


def test_a_service_that_restarts_is_waited_for(service: Service, ladle: Client) -> None:
    service.add("j1")
    several = Several(ladle, named(ladle, ["j1", "j1"]))
    service.down = 2
    script = Script(lambda: None, lambda: None, lambda: service.end("j1", JobState.CANCELLED))
    records = follow_several(several, console(), as_json=False, pause=script)
    assert worst(records) == CANCELLED
    assert len(records) == 1, "it was named twice"


def test_a_job_that_is_not_there_is_said_before_anything_is_followed(service: Service, ladle: Client) -> None:
    service.add("j1")
    with pytest.raises(NotFound, match="no such job"):
        named(ladle, ["j1", "nonesuch"])


def test_a_job_whose_record_is_deleted_does_not_hold_the_others_up(service: Service, ladle: Client) -> None:
    for job in ("j1", "j2"):
        service.add(job)
    several = Several(ladle, named(ladle, ["j1", "j2"]))
    del service.records["j1"]
    out = console()
    with pytest.raises(LadleError, match="no longer knows j1"):
        follow_several(several, out, as_json=False, pause=Script(lambda: service.end("j2", JobState.SUCCEEDED)))
    assert "j2  succeeded" in told(out)


def view(several: Several, width: int, height: int = 24) -> str:
    file = io.StringIO()
    SafeConsole(file=file, width=width, height=height, force_terminal=True, color_system=None).print(
        SeveralView(several)
    )
    return file.getvalue()


def test_a_row_has_what_fits(service: Service, ladle: Client) -> None:
    service.add("j1", JobState.RUNNING)
    ahead = CandidateResult(method="ema", label="ema", select={"accuracy": 0.9}, gain=0.033)
    service.happen("j1", StateChanged(state=JobState.RUNNING), CandidateScored(candidate=ahead), STEP)
    several = Several(ladle, unfinished(ladle))
    several.look(lambda each, event, line: None)
    wide = view(several, 140)
    for words in ("j1", "running", "choosing coefficients: twa", "24/96", "12.4 steps/s", "ema: 3.30 points better"):
        assert words in wide
    for width in (30, 50, 76, 110):
        assert max(map(len, view(several, width).splitlines())) <= width
        assert "running" in view(several, width)


def test_more_jobs_than_the_terminal_has_rows_are_counted(service: Service, ladle: Client) -> None:
    for number in range(40):
        service.add(f"job-{number}")
    several = Several(ladle, unfinished(ladle))
    text = view(several, 100, height=13)
    assert len(text.splitlines()) <= 12
    assert "and 30 more" in text
    assert several.pause_s == 2.0, "so that the service does not refuse the requests"


def test_the_exit_code_is_that_of_the_worst_job() -> None:
    assert worst([record(JobState.SUCCEEDED)]) == OK
    assert worst([record(JobState.SUCCEEDED), record(JobState.CANCELLED)]) == CANCELLED
    assert worst([record(state) for state in TERMINAL_STATES]) == FAILED


def test_the_documents_and_the_help_have_the_same_table_of_exit_codes() -> None:
    page = (Path(__file__).parents[3] / "docs" / "command.md").read_text()
    told = {int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)}
    assert told == EXIT_CODES
    assert set(EXIT_CODES) == {OK, FAILED, USAGE, CANCELLED}
    for meaning in EXIT_CODES.values():
        assert meaning in EPILOG

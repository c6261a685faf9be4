"""No command lets foreign text reach the terminal as anything but text."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.core import TyperGroup
from typer.main import get_command

from ladle import JobCancelled, JobFailed
from ladle.cli import app as command
from ladle.cli import installed
from ladle.cli.console import SafeConsole
from ladle.cli.stack import LocalStack
from ladle.cli.watch import watch_job
from ladle.curve import CURVE_FILE, CurvePoint, append
from ladle_contracts import (
    CandidateResult,
    CandidateScored,
    Catalog,
    CheckpointsFound,
    ErrorCode,
    Event,
    JobPage,
    JobRecord,
    JobState,
    MemoryPlanned,
    MethodInfo,
    NodeRecord,
    OptionInfo,
    Reason,
    StageStarted,
    StateChanged,
    StepDone,
    TaskInfo,
    Vetting,
    Warned,
)
from ladle_contracts.api import (
    EventPage,
    Health,
    LogTail,
    MethodList,
    NodeChange,
    NodeList,
    TaskList,
    Version,
    WebhookSecret,
)
from ladle_contracts.inspection import (
    AutoPlan,
    InspectedCheckpoint,
    Inspection,
    InspectionProblem,
    LeftAside,
    PlannedMemory,
)
from tests.hostile import FORGED, HOSTILE, NOT_UTF8, unsafe_in
from tests.unit.client.answers import NOW, RESULT, client, event, message, ok, problem, record, stream

PATH = HOSTILE.replace("\0", "")
CANDIDATE = CandidateResult(method="twa", label=HOSTILE, select={"accuracy": 0.9, "loss": 0.1, HOSTILE: 1.0}, gain=0.1)
BEST = CandidateResult(method="best", label=HOSTILE, select={"accuracy": 0.9, "loss": 0.1, HOSTILE: 1.0})
HOSTILE_RESULT = RESULT.model_copy(
    update={
        "folder": HOSTILE,
        "best_checkpoint": HOSTILE,
        "candidates": (BEST, CANDIDATE),
        "warnings": (HOSTILE,),
        "files": {HOSTILE: 1},
    }
)
POINT = CurvePoint(
    step=1, checkpoints=2, metric=HOSTILE, average=0.5, best=0.4, last=None, folder=HOSTILE, job_id=HOSTILE
)  # fmt: skip
OPTION = OptionInfo(name=HOSTILE, type=HOSTILE, default=HOSTILE, help=HOSTILE)
METHOD = MethodInfo(
    name=HOSTILE, summary=HOSTILE, reference=HOSTILE, reference_url=HOSTILE, formula=(HOSTILE,), options=(OPTION,)
)
TASK = TaskInfo(name=HOSTILE, summary=HOSTILE, metrics=(HOSTILE,), options=(OPTION,))
NODE = NodeRecord(
    id=HOSTILE, host=HOSTILE, ranks=1, gpus=(HOSTILE,), version=HOSTILE, torch_version=HOSTILE, started_at=NOW,
    heartbeat_at=NOW, alive=True, job_id=HOSTILE, protections=(HOSTILE,), cordoned=HOSTILE, failures_in_row=1,
    last_failure=HOSTILE, vetting=Vetting(at=NOW, took_s=1.0, problem=HOSTILE),
)  # fmt: skip
TOLD = InspectionProblem(code=HOSTILE, message=HOSTILE)
INSPECTION = Inspection(
    folder=HOSTILE,
    usable=False,
    problems=(TOLD,),
    checkpoints=(
        InspectedCheckpoint(
            name=HOSTILE, format=HOSTILE, step=1, step_from=HOSTILE, size_bytes=1, num_files=1, dtype=HOSTILE,
            duplicate_of=HOSTILE, metrics={HOSTILE: 0.5}, taken=False, usable=False, problem=TOLD, notes=(HOSTILE,),
        ),
    ),
    passed_over=(LeftAside(name=HOSTILE, reason=HOSTILE),),
    warnings=(HOSTILE,),
    plan=AutoPlan(
        checkpoints=(HOSTILE,), order=HOSTILE, methods=(HOSTILE,), groups={HOSTILE: 1}, task=HOSTILE, metric=HOSTILE,
        model=HOSTILE, num_parameters=1, dtype=HOSTILE,
        memory=PlannedMemory(placement=HOSTILE, precision=HOSTILE, needed_bytes=1, available_bytes=2),
    ),
)  # fmt: skip
BODIES = (
    CheckpointsFound(names=(HOSTILE,), num_parameters=1, dtype=HOSTILE, task=HOSTILE, order=HOSTILE),
    MemoryPlanned(placement=HOSTILE, precision=HOSTILE, parts={HOSTILE: 5}, available_bytes=9, reason=HOSTILE),
    StageStarted(stage=HOSTILE, method=HOSTILE, total=5),
    StepDone(stage=HOSTILE, method=HOSTILE, step=5, total=5, loss=0.5),
    CandidateScored(candidate=CANDIDATE),
    Warned(message=HOSTILE),
    StateChanged(state=JobState.RUNNING, message=HOSTILE),
)


def hostile_record(state: JobState, **fields: Any) -> JobRecord:
    made = record(state, id=HOSTILE, nodes=(HOSTILE,), message=HOSTILE, log_tail=(HOSTILE,), **fields)
    spec = made.spec.model_copy(update={"ckpt_dir": PATH, "val_set": PATH, "labels": {HOSTILE: HOSTILE}})
    return made.model_copy(update={"spec": spec})


SUCCEEDED = hostile_record(JobState.SUCCEEDED, result=HOSTILE_RESULT)
FAILED = hostile_record(JobState.FAILED, reason=Reason.TASK_FAILED)
WAITING = hostile_record(JobState.QUEUED, waiting_for=HOSTILE)


class HostileService:
    """Answers every request with `record` and with what belongs to it."""

    def __init__(self, record: JobRecord) -> None:
        self.record = record

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        answers: dict[str, Callable[[], httpx2.Response]] = {
            "jobs": lambda: ok(JobPage(jobs=(SUCCEEDED, FAILED, WAITING))),
            "nodes": lambda: ok(NodeList(nodes=(NODE,))),
            "methods": lambda: ok(MethodList(methods=(METHOD,))),
            "tasks": lambda: ok(TaskList(tasks=(TASK,))),
            "webhook-secret": lambda: ok(WebhookSecret(secret=HOSTILE)),
            "version": lambda: ok(Version(version=HOSTILE)),
            "inspect": lambda: ok(INSPECTION),
            "healthz": lambda: ok(Health(status="alive")),
            "logs": lambda: ok(LogTail(lines=(HOSTILE, "\ttab\tand " + HOSTILE))),
            "result": lambda: ok(HOSTILE_RESULT),
            "events": lambda: self._events(request),
            "cordon": lambda: ok(NodeChange(node=NODE, changed=True)),
            "drain": lambda: ok(NodeChange(node=NODE, changed=False)),
            "uncordon": lambda: problem(ErrorCode.NOT_FOUND, HOSTILE),
            "cancel": lambda: problem(ErrorCode.ALREADY_FINISHED, HOSTILE),
        }
        if request.method == "POST" and request.url.path == "/v1/jobs":
            return ok(self.record, 202)
        return answers.get(request.url.path.rpartition("/")[2], lambda: ok(self.record))()

    def _events(self, request: httpx2.Request) -> httpx2.Response:
        if "event-stream" in request.headers["accept"]:
            return stream(*map(message, self.events()))
        return ok(EventPage(events=tuple(self.events())))

    def events(self) -> list[Event]:
        last = StateChanged(state=self.record.state, message=HOSTILE)
        return [
            event(number, body).model_copy(update={"job_id": HOSTILE}) for number, body in enumerate((*BODIES, last))
        ]


@pytest.fixture(params=[SUCCEEDED, FAILED], ids=["succeeded", "failed"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> HostileService:
    """Where LADLE_URL points."""
    hostile = HostileService(request.param)
    monkeypatch.setenv("LADLE_URL", "http://ladle.test")
    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", lambda self, request: hostile(request))
    return hostile


@pytest.fixture(autouse=True)
def _hostile_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker with a hostile plug-in, and a stack whose service ends at once with a hostile log."""

    def ask(module: str, text: str = "") -> subprocess.CompletedProcess[str]:
        catalog = Catalog(methods=(METHOD,), tasks=(TASK,)).model_dump(mode="json")
        described = {
            "catalog": catalog, "gpus": [HOSTILE], "torch_version": HOSTILE, "ranks": 1,
            "broken_tasks": {HOSTILE: HOSTILE}, "protections": {HOSTILE: HOSTILE, "files": ""},
        }  # fmt: skip
        refused = {"ok": False, "reason": "task-failed", "message": HOSTILE}
        answer = json.dumps(described if module == "describe" else refused)
        return subprocess.CompletedProcess([], 0, stdout=answer, stderr=f"{HOSTILE}\n\t{HOSTILE}")

    def command_of(module: str) -> list[str]:
        answer = ask(module)
        program = f"import sys; print({answer.stdout!r}); print({answer.stderr!r}, file=sys.stderr)"
        return [sys.executable, "-c", program]

    def start(stack: LocalStack, meanwhile: Callable[[], None] = lambda: None) -> None:
        meanwhile()
        stack.options.state.mkdir(parents=True)
        stack.log("service").write_text(f"{HOSTILE}\n\t{HOSTILE}")
        stack.processes["service"] = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
        stack.processes["service"].wait()
        stack.check()

    monkeypatch.setattr(installed, "_ask", ask)
    monkeypatch.setattr(installed, "_command", command_of)
    monkeypatch.setattr(LocalStack, "start", start)
    monkeypatch.setattr("ladle.cli.local.default_state", lambda: tmp_path / "stack")
    monkeypatch.setattr(command.out, "width", 10_000)
    monkeypatch.setattr(command.err, "width", 10_000)


FOLDER = PATH.replace("/", "_")
"""A name that a folder can have."""
SHORTLY = ("--look-every", "0.01", "--stop-after-idle", "0.0001")
SHOWING = {
    "run": [["run", FOLDER, "val"], ["run", "there", "there"]],
    "curve": [["curve", FOLDER, "val"], ["curve", "there", "there"]],
    "inspect": [["inspect", FOLDER], ["inspect", "there"]],
    "convert": [["convert", FOLDER, "there"]],
    "up": [["up", "--root", FOLDER], ["up"]],
    "submit": [["submit", FOLDER, "v"], ["submit", FOLDER, "v", "--watch"], ["submit", "c", "v", "--label", FOLDER]],
    "watch": [["watch", "j1"], ["watch", HOSTILE], ["watch", "j1", "j2"]],
    "watch-folder": [
        ["watch-folder", FOLDER, "v", *SHORTLY],
        ["watch-folder", "there", "v", "--results", "curve", *SHORTLY],
    ],
    "status": [["status", "j1"]],
    "list": [["list"], ["list", "--label", FOLDER], ["list", "--state", FOLDER], ["list", "--from-results", FOLDER]],
    "cancel": [["cancel", HOSTILE]],
    "logs": [["logs", "j1"]],
    "result": [["result", "j1"]],
    "report": [["report", FOLDER], ["report", HOSTILE]],
    "compare": [["compare", FOLDER, "there"]],
    "webhook-secret": [["webhook-secret"]],
    "push": [["push", FOLDER, "hf://ann/model"]],
    "methods": [["methods"]],
    "tasks": [["tasks"]],
    "nodes": [["nodes"]],
    "node cordon": [["node", "cordon", HOSTILE]],
    "node drain": [["node", "drain", "n1", "--now", "--reason", FOLDER]],
    "node uncordon": [["node", "uncordon", HOSTILE]],
    "doctor": [["doctor", "--root", FOLDER, "--results", FOLDER], ["doctor", "--url", "http://ladle.test"]],
    "version": [["version"]],
    "task new": [["task", "new", FOLDER]],
    "token create": [["token", "create", FOLDER], ["token", "create", "ann", "--tokens-file", f"{FOLDER}/x"]],
    "token list": [["token", "list", "--tokens-file", FOLDER]],
    "token revoke": [["token", "revoke", FOLDER, "--tokens-file", "there/tokens"]],
}
"""Command -> command lines on which it shows foreign text. A new command needs a line here."""


def all_commands(group: TyperGroup, *path: str) -> list[str]:
    found: list[str] = []
    for name, each in group.commands.items():
        found += all_commands(each, *path, name) if isinstance(each, TyperGroup) else [" ".join([*path, name])]
    return found


def test_every_command_is_tried_here() -> None:
    group = get_command(command.app)
    assert isinstance(group, TyperGroup)
    assert set(SHOWING) == set(all_commands(group))


def ran(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command wrote to both streams."""
    monkeypatch.setattr(sys, "argv", ["ladle", *arguments])
    with pytest.raises(SystemExit):
        command.main()
        raise SystemExit(0)
    written = capsys.readouterr()
    return written.out + written.err


LINES = [line for lines in SHOWING.values() for line in lines]
WITHOUT_JSON = {
    *("up", "logs", "report", "compare", "cancel", "version", "task new", "token revoke", "convert", "webhook-secret"),
}
JSON_LINES = [[*lines[0], "--json"] for name, lines in SHOWING.items() if name not in WITHOUT_JSON]


@pytest.mark.parametrize(
    "arguments", [*LINES, *JSON_LINES, ["nothing" + FOLDER], ["list", "--x" + FOLDER], ["list", FOLDER]]
)
def test_foreign_text_is_only_ever_text(
    service: HostileService,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "tokens").write_text(f"ann:{'0' * 64}\n")
    append(tmp_path / "curve" / CURVE_FILE, replace(POINT, ckpt_dir=str(tmp_path / "there")))
    text = ran(arguments, monkeypatch, capsys)
    assert not unsafe_in(text), ascii(text)
    assert FORGED in text, "the command shows what is tested"
    assert not re.search(rf"^(│ )?(# )?{FORGED}", text, re.MULTILINE), "only an indented line of a log may begin so"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["submit", NOT_UTF8, "v"], "`CKPT_DIR` must be text in UTF-8"),
        (["submit", "c", "v", "--method", NOT_UTF8], "`--method` must be text in UTF-8"),
        (["submit", "c", "v", "--label", f"{NOT_UTF8}=x"], "`--label` must be text in UTF-8"),
        (["submit", "c", "v", "--exclude", NOT_UTF8], "`--exclude` must be text in UTF-8"),
        (["status", NOT_UTF8], ""),
        (["list", "--label", f"a={NOT_UTF8}"], ""),
        (["logs", NOT_UTF8], ""),
    ],
)
def test_names_that_are_not_utf_8_end_in_a_message(
    service: HostileService,
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = ran(arguments, monkeypatch, capsys)
    assert told in " ".join(text.replace("│", " ").split())
    assert not unsafe_in(text)


@pytest.mark.parametrize("arguments", [["methods"], ["tasks"]])
def test_the_installed_catalogue_is_only_ever_text(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ran(arguments, monkeypatch, capsys)
    assert FORGED in text
    assert not unsafe_in(text), ascii(text)


@pytest.mark.parametrize("last", [SUCCEEDED, FAILED])
def test_the_live_view_sends_no_controls_but_its_own(last: JobRecord) -> None:
    screen = io.StringIO()
    console = SafeConsole(file=screen, force_terminal=True, width=10_000, legacy_windows=False)
    with client(HostileService(last)) as watching:
        watch_job(watching.job("j1"), console)
    own = r"\x1b\[[0-9;]*[mAK]|\x1b\[\?25[lh]|\r"
    text = re.sub(own, "", screen.getvalue())
    assert FORGED in text
    assert not unsafe_in(text), ascii(text)


def test_a_console_makes_any_renderable_safe_and_cuts_nothing_off() -> None:
    screen = io.StringIO()
    console = SafeConsole(file=screen, width=30)
    console.print("\x1b" * 40, style="bold")
    assert screen.getvalue().replace("\n", "") == r"\x1b" * 40


def test_messages_of_exceptions_are_safe_and_their_attributes_original() -> None:
    error = JobFailed(FAILED)
    assert not unsafe_in(str(error))
    assert not [line for line in str(error).splitlines() if line.startswith(FORGED)]
    assert (error.message, error.log_tail) == (HOSTILE, (HOSTILE,))
    assert not unsafe_in(str(JobCancelled(FAILED)))


def test_the_command_writes_nothing_past_its_consoles() -> None:
    """`print` and `typer.echo` only for `to_json`, which is ASCII; and no console of another kind."""
    past: list[str] = []
    for path in sorted(Path(command.__file__).parent.glob("*.py")):
        for call in [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]:
            name = ast.unparse(call.func)
            plain = name in ("print", "typer.echo", "typer.secho", "click.echo") and "to_json(" not in ast.unparse(call)
            if plain or name == "Console" or name.endswith(("stdout.write", "stderr.write")):
                past.append(f"{path.name}:{call.lineno}")
    assert not past

"""The `ladle` command as a program: against the real service, with a scripted node in the worker's place."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ladle_contracts import CandidateResult, CandidateScored, Reason, StageStarted, StepDone, Warned
from tests.builders import make_checkpoints, make_val_set
from tests.integration.api_stack import ScriptedNode, Stack
from tests.plug_ins import install, line_of, task_source
from tests.polling import DEADLINE_S
from tests.unit.client.answers import RESULT

CACHE = str(Path(tempfile.gettempdir()) / "ladle-test-cache")
PROGRAM = [sys.executable, "-c", "from ladle.cli import main; main()"]


def ladle(
    stack: Stack | None, *arguments: str, cwd: Path | None = None, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command as a shell would, with the service's address in its environment. `path` holds plug-ins."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LADLE_")}
    environment |= {
        "COLUMNS": "160",
        "XDG_STATE_HOME": "/nonexistent",
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", CACHE),
    }
    if stack is not None:
        environment["LADLE_URL"] = stack.url
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*PROGRAM, *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def submitted(stack: Stack, *options: str) -> str:
    done = ladle(stack, "submit", *stack.paths, *options)
    assert done.returncode == 0, done.stderr
    assert "The result's folder will be called `" in done.stderr
    return done.stdout.strip()


def test_submit_prints_the_id_alone_and_every_option_reaches_the_spec(stack: Stack) -> None:
    job = submitted(
        stack,
        *("--method", "twa", "--method-option", "steps=40", "--method-option", "groups=layers"),
        *("--task-option", "batch_size=16", "--pattern", "epoch-*", "--last", "5"),
        *("--exclude", "*-3*", "--order", "name", "--like", "epoch-1", "--skip-tensor", "head.*"),
        *("--take-from", "epoch-2", "embed", "--take-from", "epoch-2", "lm_head"),
        *("--select-fraction", "0.4", "--metric", "loss", "--name", "mine", "--dtype", "bfloat16"),
        *(
            "--output-format",
            "dcp",
            "--max-shard-bytes",
            "2000000",
            "--seed",
            "7",
            "--priority",
            "3",
            "--label",
            "run=a",
            "--label",
            "n=1",
        ),
        *("--ranks-per-node", "2", "--train-set", stack.paths[1], "--train-set-use", "batchnorm"),
    )
    assert re.search(r"^result's folder +mine *$", ladle(stack, "status", job).stdout, re.MULTILINE)
    spec = json.loads(ladle(stack, "status", job, "--json").stdout)["spec"]
    assert spec["method"] == {"name": "twa", "options": {"steps": 40, "groups": "layers"}}
    assert spec["task"] == {"name": None, "options": {"batch_size": 16}}, "of the task that will be inferred"
    assert (spec["checkpoints"]["pattern"], spec["checkpoints"]["last"]) == ("epoch-*", 5)
    assert (spec["checkpoints"]["exclude"], spec["checkpoints"]["order"]) == (["*-3*"], "name")
    assert (spec["checkpoints"]["like"], spec["checkpoints"]["skip_tensors"]) == ("epoch-1", ["head.*"])
    assert spec["checkpoints"]["take_from"] == {"epoch-2": ["embed", "lm_head"]}
    assert (spec["select_fraction"], spec["metric"], spec["seed"], spec["priority"]) == (0.4, "loss", 7, 3)
    assert spec["output"] == {"name": "mine", "dtype": "bfloat16", "max_shard_bytes": 2_000_000, "format": "dcp"}
    assert spec["labels"] == {"run": "a", "n": "1"}
    assert spec["resources"]["ranks_per_node"] == 2
    assert spec["train_set"] == {"path": stack.paths[1], "use": "batchnorm"}
    assert ladle(stack, "cancel", job).returncode == 0, "so that no later test's node is given it"


@pytest.mark.slow
def test_a_running_job_is_watched_to_its_result(stack: Stack, node: ScriptedNode) -> None:
    job = submitted(stack)
    attempt = node.start(job)
    node.report(
        job, attempt, Warned(message="careful"), StageStarted(stage="train", method="twa", total=64),
        StepDone(stage="train", method="twa", step=63, total=64, loss=0.25),
        CandidateScored(candidate=CandidateResult(
            method="twa", label="twa", select={"accuracy": 0.9}, fit={}, gain=0.01, gain_low=-0.01, gain_high=0.03)),
        lines=("first line", "second line"),
    )  # fmt: skip
    assert ladle(stack, "logs", job, "--tail", "1").stdout == "second line\n"
    shown = ladle(stack, "status", job).stdout
    assert "running" in shown
    assert "scripted-node" in shown
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(ladle, stack, "watch", job)
        node.succeed(job, attempt, RESULT)
        watched = watching.result()
    assert watched.returncode == 0, watched.stderr
    gain = "accuracy 0.9000; against the best checkpoint 1.00 points better"
    for words in ("warning: careful", "twa 63/64  loss 0.2500", gain, RESULT.folder):
        assert words in watched.stdout
    assert "\x1b[" not in watched.stdout, "no terminal, no colours"
    assert json.loads(ladle(stack, "result", job, "--json").stdout) == RESULT.model_dump(mode="json")
    assert RESULT.folder in ladle(stack, "result", job).stdout
    listed = ladle(stack, "list", "--state", "succeeded").stdout
    assert job in listed
    events = [json.loads(line) for line in ladle(stack, "watch", job, "--json").stdout.splitlines()]
    assert [event["body"]["kind"] for event in events[:-1]][:2] == ["state", "state"]


def test_a_failed_job_exits_with_one_and_says_why(stack: Stack, node: ScriptedNode) -> None:
    job = submitted(stack)
    attempt = node.start(job)
    node.fail(job, attempt, Reason.CORRUPT_CHECKPOINT, "`a.safetensors` must be whole, but is cut", ["the log's end"])
    for command in ("watch", "result"):
        done = ladle(stack, command, job)
        assert done.returncode == 1
        assert "`a.safetensors` must be whole, but is cut [corrupt-checkpoint]" in done.stderr
        assert "the log's end" in done.stderr
        assert "Traceback" not in done.stderr
    assert "the log's end" in ladle(stack, "status", job).stdout


def test_several_jobs_are_watched_and_the_worst_decides(stack: Stack, node: ScriptedNode) -> None:
    good = submitted(stack)
    node.succeed(good, node.start(good), RESULT)
    bad = submitted(stack)
    node.fail(bad, node.start(bad), Reason.EMPTY_DATA, "`val_set` must have examples, but has none", [])
    watched = ladle(stack, "watch", good, bad)
    assert watched.returncode == 1
    lines = watched.stdout.splitlines()
    assert f"{good}  succeeded  twa: accuracy 2.00 points higher  {RESULT.folder}" in lines
    assert f"{bad}  failed  `VAL_SET` must have examples, but has none [empty-data]" in lines
    assert all(line.startswith((good, bad)) for line in lines)
    both = ladle(stack, "watch", good, "--all")
    assert both.returncode == 2
    assert "but not both" in " ".join(both.stderr.replace("│", " ").split())


def test_a_queued_job_is_cancelled_and_a_second_cancel_comes_too_late(stack: Stack) -> None:
    job = submitted(stack, "--priority", "-100")
    assert ladle(stack, "cancel", job).returncode == 0
    again = ladle(stack, "cancel", job)
    assert again.returncode == 1
    assert again.stderr == f"Job {job} has already been cancelled.\n"
    assert ladle(stack, "watch", job).returncode == 130


def test_the_machines_are_listed(stack: Stack, node: ScriptedNode) -> None:
    (machine,) = json.loads(ladle(stack, "nodes", "--json").stdout)
    assert (machine["id"], machine["ranks"], machine["alive"]) == ("scripted-node", 4, True)
    assert "scripted-node" in ladle(stack, "nodes").stdout


def test_a_machine_is_taken_out_and_put_back(stack: Stack, node: ScriptedNode) -> None:
    assert ladle(stack, "node", "drain", "scripted-node", "--reason", "new cables").stdout == (
        "Node scripted-node is drained and takes no more jobs.\n"
    )
    again = ladle(stack, "node", "drain", "scripted-node")
    assert again.returncode == 0
    assert again.stdout == "Node scripted-node was drained already: drained by local: new cables.\n"
    assert again.stderr == "No node takes jobs now. Jobs wait until one does.\n"
    assert "scripted-node takes no jobs: drained by local: new cables." in ladle(stack, "nodes").stdout
    assert ladle(stack, "node", "uncordon", "scripted-node").stdout == "Node scripted-node takes jobs again.\n"
    assert ladle(stack, "node", "uncordon", "scripted-node").stdout == "Node scripted-node was not cordoned.\n"
    unknown = ladle(stack, "node", "uncordon", "scripted-node", "scripted")
    assert "scripted-node was not cordoned" in unknown.stdout
    assert unknown.returncode == 1
    assert "There is no node `scripted`. Known are: `scripted-node`" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["submit", "/etc", "/etc/passwd"], 1, 'but is "/etc"'),
        (["submit", "a", "b", "--method-option", "steps"], 2, "NAME=VALUE, but is 'steps'"),
        (["submit", "a", "b", "--steps", "1,x"], 2, "numbers with commas between"),
        (["submit", "a", "b", "--select-fraction", "2"], 2, "`--select-fraction` must be below 1, but is 2."),
        (["submit", "a", "b", "--dtype", "int4"], 2, "`--dtype` must be `keep`"),
        (["submit", "a", "b", "--url", "nonsense"], 1, "`--url` must be http://host:port"),
        (["submit", "/etc", "/etc/passwd", "--train-set", "/etc"], 1, "`--train-set` must be an existing"),
        (["submit", "a"], 2, "VAL_SET"),
        (["status", "nonesuch"], 1, "no such job"),
        (["logs", "nonesuch"], 1, "no such job"),
        (["list", "--state", "asleep"], 2, "asleep"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_mistakes_get_one_message_and_no_traceback(stack: Stack, arguments: list[str], status: int, words: str) -> None:
    done = ladle(stack, *arguments)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_without_a_service_the_message_says_how_to_get_one(tmp_path: Path) -> None:
    done = ladle(None, "list", cwd=tmp_path)
    assert done.returncode == 1
    assert "ladle up" in done.stderr
    assert "LADLE_URL" in done.stderr


def test_run_refuses_paths_that_do_not_exist_before_it_starts_anything(tmp_path: Path) -> None:
    done = ladle(None, "run", "nowhere", "val.npz", cwd=tmp_path)
    assert done.returncode == 2
    assert "`nowhere` must exist, but does not" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_run_refuses_what_the_job_would_refuse_before_it_starts_anything(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "checkpoints", count=2)
    make_val_set(tmp_path / "val.npz")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        (("empty", "val.npz"), ("must hold checkpoints", "[no-checkpoints]")),
        (("checkpoints", "val.npz", "--task", "small-cn"), ("Did you mean `small-cnn`?", "[unknown-task]")),
    ):
        done = ladle(None, "run", *arguments, cwd=tmp_path)
        assert done.returncode == 1, done.stdout + done.stderr
        text = " ".join(done.stderr.split())
        assert all(each in text for each in words), text
        assert "Traceback" not in text
        assert not (tmp_path / "ladle-results").exists(), "a stack makes it first of all"


def test_a_plug_in_that_fails_is_named_by_run_with_its_traceback(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "checkpoints", count=2)
    make_val_set(tmp_path / "val.npz")
    source = task_source("broken", "def open_data(self, path, checkpoints):\n    print('a word')\n    return missing")
    file = install(tmp_path / "site", "broken", source)
    done = ladle(None, "run", "checkpoints", "val.npz", "--task", "broken", cwd=tmp_path, path=tmp_path / "site")
    assert done.returncode == 1
    text = " ".join(done.stderr.split())
    assert f"line {line_of(file, 'return missing')}): NameError: name 'missing' is not defined" in text
    assert "[task-failed]" in text
    assert "The log ends with: Traceback" in text


@pytest.mark.slow
def test_without_a_service_tasks_and_methods_are_those_that_are_installed_here(tmp_path: Path) -> None:
    source = "import no_such_library\n"
    install(tmp_path / "site", "broken", source)
    tasks = ladle(None, "tasks", "--json", cwd=tmp_path, path=tmp_path / "site")
    assert tasks.returncode == 0, tasks.stderr
    assert {"image-classification", "small-cnn"} <= {task["name"] for task in json.loads(tasks.stdout)}
    assert "installed here" in tasks.stderr
    methods = ladle(None, "methods", "--json", cwd=tmp_path)
    assert {method["name"] for method in json.loads(methods.stdout)} >= {"auto", "twa"}
    findings = json.loads(ladle(None, "doctor", "--json", cwd=tmp_path, path=tmp_path / "site").stdout)
    found = {finding["name"]: finding for finding in findings}
    assert "small-cnn" in found["tasks"]["detail"]
    assert not found["task broken"]["ok"]
    assert not found["task broken"]["needed"], "other tasks work"
    assert "No module named 'no_such_library'" in found["task broken"]["detail"]


def test_a_service_that_is_named_is_asked_and_nothing_else_is_shown(tmp_path: Path) -> None:
    done = ladle(None, "tasks", "--url", "ftp://nobody", cwd=tmp_path)
    assert done.returncode == 1
    assert "must be http://host:port" in done.stderr
    assert not done.stdout


@pytest.mark.slow
def test_help_names_every_command_and_each_command_its_options() -> None:
    text = ladle(None, "--help").stdout
    commands = (
        "up",
        "run",
        "submit",
        "status",
        "list",
        "watch",
        "watch-folder",
        "cancel",
        "logs",
        "result",
        "methods",
        "doctor",
    )
    for command in commands:
        assert f" {command} " in text, command
        assert "Usage" in ladle(None, command, "--help").stdout


def test_the_shell_can_complete_commands() -> None:
    environment = {**os.environ, "_LADLE_COMPLETE": "complete_bash", "COMP_WORDS": "ladle wa", "COMP_CWORD": "1"}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ladle")],
        env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert set(done.stdout.split()) == {"watch", "watch-folder"}


@pytest.mark.slow
def test_the_doctor_finds_what_is_there_and_says_how_to_mend_what_is_not(stack: Stack, tmp_path: Path) -> None:
    healthy = ladle(stack, "doctor", "--root", str(tmp_path), "--results", str(tmp_path / "results"))
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    for words in ("ladle[service]  installed", "torch  2.", "readable", "writable", "free disk", "GPU", "Redis"):
        assert words in healthy.stdout
    ill = ladle(None, "doctor", "--root", str(tmp_path / "absent"), "--json")
    assert ill.returncode == 1
    findings = {finding["name"]: finding for finding in json.loads(ill.stdout)}
    root = findings[f"root {tmp_path / 'absent'}"]
    assert not root["ok"]
    assert "--root" in root["fix"]
    assert not findings["service"]["ok"]


@pytest.mark.slow
def test_convert_speaks_of_its_arguments_and_makes_a_folder(tmp_path: Path) -> None:
    folder = make_checkpoints(tmp_path / "run", count=2)
    done = ladle(None, "convert", str(folder / "epoch-1.safetensors"), str(tmp_path / "out"), "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out")]
    assert (tmp_path / "out/config.json").exists()
    again = ladle(None, "convert", str(folder), str(tmp_path / "out"))
    assert again.returncode == 1
    assert "`OUTPUT` must be a new folder" in again.stderr.replace("\n", " ")
    (tmp_path / "empty").mkdir()
    empty = ladle(None, "convert", str(tmp_path / "empty"), str(tmp_path / "new"))
    assert "`SOURCE` must hold a checkpoint" in empty.stderr.replace("\n", " ")
    wrong = ladle(None, "convert", str(folder), str(tmp_path / "new"), "--dtype", "int8")
    assert wrong.returncode == 2
    assert "`--dtype` must be one of keep, float32" in wrong.stderr

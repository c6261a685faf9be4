"""The `ladle` command as a program: against the real service, with a scripted node in the worker's place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ladle_contracts import CandidateResult, CandidateScored, Reason, StageStarted, StepDone, Warned
from tests.integration.api_stack import ScriptedNode, Stack
from tests.polling import DEADLINE_S
from tests.unit.client.answers import RESULT

PROGRAM = [sys.executable, "-c", "from ladle.cli import main; main()"]


def ladle(stack: Stack | None, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command as a shell would, with the service's address in its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LADLE_")}
    environment |= {"COLUMNS": "160", "XDG_STATE_HOME": "/nonexistent"}
    if stack is not None:
        environment["LADLE_URL"] = stack.url
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
    return done.stdout.strip()


def test_submit_prints_the_id_alone_and_every_option_reaches_the_spec(stack: Stack) -> None:
    job = submitted(
        stack,
        *("--method", "twa", "--method-option", "steps=40", "--method-option", "groups=layers"),
        *("--task-option", "batch_size=16", "--pattern", "epoch-*", "--last", "5"),
        *("--select-fraction", "0.4", "--metric", "loss", "--output", "mine", "--dtype", "bfloat16"),
        *("--max-shard-bytes", "2000000", "--seed", "7", "--priority", "3", "--label", "run=a", "--label", "n=1"),
        *("--ranks-per-node", "2", "--train-set", stack.paths[1], "--train-set-use", "batchnorm"),
    )
    spec = json.loads(ladle(stack, "status", job, "--json").stdout)["spec"]
    assert spec["method"] == {"name": "twa", "options": {"steps": 40, "groups": "layers"}}
    assert spec["task"] == {"name": None, "options": {"batch_size": 16}}, "of the task that will be inferred"
    assert (spec["checkpoints"]["pattern"], spec["checkpoints"]["last"]) == ("epoch-*", 5)
    assert (spec["select_fraction"], spec["metric"], spec["seed"], spec["priority"]) == (0.4, "loss", 7, 3)
    assert spec["output"] == {"name": "mine", "dtype": "bfloat16", "max_shard_bytes": 2_000_000}
    assert spec["labels"] == {"run": "a", "n": "1"}
    assert spec["resources"]["ranks_per_node"] == 2
    assert spec["train_set"] == {"path": stack.paths[1], "use": "batchnorm"}
    assert ladle(stack, "cancel", job).returncode == 0, "so that no later test's node is given it"


def test_a_running_job_is_watched_to_its_result(stack: Stack, node: ScriptedNode) -> None:
    job = submitted(stack)
    attempt = node.start(job)
    node.report(
        job, attempt, Warned(message="careful"), StageStarted(stage="train", method="twa", total=64),
        StepDone(stage="train", method="twa", step=64, total=64, loss=0.25),
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
    for words in ("warning: careful", "twa 64/64, loss 0.2500", "accuracy 0.9000, gain +0.0100", RESULT.folder):
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


def test_a_queued_job_is_cancelled_and_a_second_cancel_comes_too_late(stack: Stack) -> None:
    job = submitted(stack, "--priority", "-100")
    assert ladle(stack, "cancel", job).returncode == 0
    again = ladle(stack, "cancel", job)
    assert again.returncode == 1
    assert "Too late" in again.stderr
    assert ladle(stack, "watch", job).returncode == 130


def test_the_machines_are_listed(stack: Stack, node: ScriptedNode) -> None:
    assert "scripted-node" in ladle(stack, "nodes").stdout
    (machine,) = json.loads(ladle(stack, "nodes", "--json").stdout)
    assert (machine["id"], machine["ranks"], machine["alive"]) == ("scripted-node", 4, True)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["submit", "/etc", "/etc/passwd"], 1, 'but is "/etc"'),
        (["submit", "a", "b", "--method-option", "steps"], 2, "NAME=VALUE, but is 'steps'"),
        (["submit", "a", "b", "--steps", "1,x"], 2, "whole numbers"),
        (["submit", "a", "b", "--select-fraction", "2"], 1, "select_fraction"),
        (["submit", "a", "b", "--dtype", "int4"], 1, "dtype"),
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
    assert "`nowhere` does not exist" in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_names_every_command_and_each_command_its_options() -> None:
    text = ladle(None, "--help").stdout
    commands = ("up", "run", "submit", "status", "list", "watch", "cancel", "logs", "result", "methods", "doctor")
    for command in commands:
        assert f" {command} " in text, command
        assert "Usage" in ladle(None, command, "--help").stdout


def test_the_shell_can_complete_commands() -> None:
    environment = {**os.environ, "_LADLE_COMPLETE": "complete_bash", "COMP_WORDS": "ladle wa", "COMP_CWORD": "1"}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ladle")],
        env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["watch"]


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

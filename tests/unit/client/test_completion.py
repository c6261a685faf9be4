"""What the shell completes: in bash itself, and as zsh and fish are told it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import BaseModel

from ladle_contracts import Catalog, JobPage, JobState, MethodInfo, NodeRecord, OptionInfo, TaskInfo
from ladle_contracts.api import MethodList, NodeList, TaskList
from tests.hostile import HOSTILE
from tests.polling import DEADLINE_S
from tests.unit.client.answers import NOW, record

PROGRAM = str(Path(sys.executable).parent / "ladle")

OPTIONS = (
    OptionInfo(name="steps", type="int", default=96, help="How many."),
    OptionInfo(name="groups", type="str", default="whole model", help="Which."),
)
METHODS = (
    MethodInfo(name="twa", summary="Trains them.", reference="Li", reference_url="", options=OPTIONS),
    MethodInfo(name="uniform", summary="The mean.", reference="Izmailov", reference_url=""),
    MethodInfo(name=HOSTILE, summary=HOSTILE, reference="", reference_url=""),
)
TASKS = (TaskInfo(name="small-cnn", summary="Images.", metrics=("accuracy", "loss"), options=OPTIONS[:1]),)
NODE = NodeRecord(
    id="node-1", host="h", ranks=1, version="1", torch_version="2", started_at=NOW, heartbeat_at=NOW, alive=True
)  # fmt: skip
ANSWERS: dict[str, BaseModel] = {
    "/v1/jobs": JobPage(
        jobs=(
            record(JobState.RUNNING, id="aa11").model_copy(
                update={"created_at": datetime.now(UTC) - timedelta(days=3, hours=12)}
            ),
            record(JobState.SUCCEEDED, id="bb22"),
            record(JobState.RUNNING, id="$(touch pwned)"),
        )
    ),
    "/v1/nodes": NodeList(nodes=(NODE,)),
    "/v1/methods": MethodList(methods=METHODS),
    "/v1/tasks": TaskList(tasks=TASKS),
}


class Handler(BaseHTTPRequestHandler):
    """Answers what a service would."""

    def do_GET(self) -> None:
        """One answer."""
        body = ANSWERS[self.path.partition("?")[0]].model_dump_json().encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A service that answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


IN_BASH = r"""
eval "$(_LADLE_COMPLETE=source_bash "$LADLE")"
while IFS= read -r line; do
    IFS=' ' read -r -a COMP_WORDS <<< "$line."
    COMP_WORDS[-1]="${COMP_WORDS[-1]%.}"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    _ladle_completion "$LADLE"
    printf '%s\n' "$line> ${COMPREPLY[*]}"
done
"""


def environment(folder: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LADLE_")}
    state = {"XDG_STATE_HOME": str(folder / "state"), "XDG_CACHE_HOME": str(folder / "cache")}
    return kept | state | {"LADLE": PROGRAM} | variables


def in_bash(folder: Path, *lines: str, **variables: str) -> list[list[str]]:
    """What bash offers for each line, at its end."""
    done = subprocess.run(
        ["bash", "-c", IN_BASH],
        input="\n".join(lines) + "\n", env=environment(folder, **variables), cwd=folder, capture_output=True, text=True,
        timeout=DEADLINE_S, check=True,
    )  # fmt: skip
    assert not done.stderr, "a shell shows it in the middle of what is being typed"
    return [line.partition("> ")[2].split() for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_jobs_nodes_methods_tasks_and_options(url: str, tmp_path: Path) -> None:
    watch, again, drain, method, options, metric = in_bash(
        tmp_path,
        "ladle watch ", "ladle watch aa11 ", "ladle node drain ", "ladle submit c v --method ",
        "ladle submit c v --method twa --method-option s", "ladle run c v --task small-cnn --metric a",
        LADLE_URL=url,
    )  # fmt: skip
    assert watch == ["aa11"], "the others have ended, or have a name that a shell would run"
    assert again == [], "it is on the line already"
    assert drain == ["node-1"]
    assert method == ["twa", "uniform"]
    assert options == ["steps=96"]
    assert metric == ["accuracy"]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_without_a_service_what_was_seen_last_is_offered_and_nothing_is_said(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "ladle"
    cache.mkdir(parents=True)
    (cache / "catalog.json").write_text(Catalog(methods=METHODS, tasks=TASKS).model_dump_json())
    assert in_bash(tmp_path, "ladle watch ", "ladle submit c v --method t") == [[], ["twa"]]
    (cache / "catalog.json").write_text("{")
    closed = "http://127.0.0.1:1"
    assert in_bash(tmp_path, "ladle submit c v --method t", LADLE_URL=closed) == [[]]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_results_wherever_they_lie(tmp_path: Path) -> None:
    for name in ("ladle-results/digits", "ladle-results/two words", "elsewhere/other", "ladle-results/unfinished"):
        (tmp_path / name).mkdir(parents=True)
        if not name.endswith("unfinished"):
            (tmp_path / name / "report.json").write_text("{}")
    lines = (
        "ladle report ",
        "ladle report ladle-results/",
        "ladle report ladle-results/d",
        "ladle report ./elsewhere/o",
    )
    here, there = ["ladle-results/digits"], ["./elsewhere/other"]
    assert in_bash(tmp_path, *lines) == [here, here, here, there]
    assert in_bash(tmp_path, "ladle report ~/elsewhere/", HOME=str(tmp_path)) == [["~/elsewhere/other"]]


def told(shell: str, line: str, folder: Path, **variables: str) -> str:
    asks = {
        "_LADLE_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run(
        [PROGRAM], env=environment(folder, **asks, **variables), capture_output=True, text=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert not done.stderr
    return done.stdout


def test_zsh_and_fish_are_told_the_state_and_age_of_a_job(url: str, tmp_path: Path) -> None:
    assert told("fish", "ladle watch ", tmp_path, LADLE_URL=url) == "aa11\trunning, 3 days ago, auto\n"
    assert '"aa11":"running, 3 days ago, auto"' in told("zsh", "ladle watch ", tmp_path, LADLE_URL=url)
    assert "pwned" not in told("zsh", "ladle status ", tmp_path, LADLE_URL=url)

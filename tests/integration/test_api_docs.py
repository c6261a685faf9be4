"""The documents of the API and the client say what is true: their snippets run, their tables are complete."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import ladle
from ladle_contracts import PROBLEM_TITLES, JobSpec, keys
from ladle_service.app import create_app
from ladle_service.settings import Settings
from tests.docs.snippets import FOR_A_SERVICE, Snippet, all_snippets
from tests.integration.api_stack import NODE, ScriptedNode, Stack, api_stack
from tests.polling import DEADLINE_S
from tests.unit.client.answers import RESULT

DOCS = Path(__file__).parents[2] / "docs"
REST = (DOCS / "rest.md").read_text()
MONITORING = (DOCS / "monitoring.md").read_text()
CLIENT = (DOCS / "client.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with api_stack(tmp_path_factory.mktemp("docs")) as made:
        for path in (
            *("runs/42/checkpoints", "runs/resnet/checkpoints", "path/to/checkpoints", "path/to/val.npz"),
            *("data/val", "data/train", "data/clean.npz", "data/noisy.npz"),
        ):
            (made.folder / "data" / path).mkdir(parents=True)
        yield made


@pytest.fixture(scope="module")
def node(stack: Stack) -> Iterator[threading.Event]:
    """Lets every job succeed, one after the other."""
    node, stop = ScriptedNode(stack.server), threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            node.call("heartbeat", NODE)
            node.inspect()
            job_id = node.redis.hget(keys.node(NODE), "job")
            if job_id:
                node.succeed(job_id, node.start(job_id), RESULT)

    working = threading.Thread(target=work)
    working.start()
    yield stop
    stop.set()
    working.join()
    node.close()


SNIPPETS = [each for each in all_snippets() if each.language == "python" and FOR_A_SERVICE in each.text]


@pytest.mark.slow
@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)
def test_the_clients_snippets_run(stack: Stack, node: threading.Event, snippet: Snippet) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet.text],
        cwd=stack.folder / "data",
        env={**os.environ, "LADLE_URL": stack.url},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr


def test_the_curl_commands_are_what_the_service_takes(stack: Stack) -> None:
    first, others = blocks(REST, "sh")[:2]
    body = json.loads(shlex.split(first)[-1])
    assert JobSpec.model_validate(body).ckpt_dir == "/data/run-42/checkpoints"
    paths = {f"/v1/jobs{path}" for path in ("", "/JOB_ID", "/JOB_ID/events")}
    assert set(re.findall(r"http://127\.0\.0\.1:8337(\S+)", first + others)) == paths


def test_the_spec_in_the_document_is_one() -> None:
    assert JobSpec.model_validate_json(blocks(REST, "json")[0]).metric == "accuracy"


def test_every_address_stands_in_the_document(tmp_path: Path) -> None:
    app = create_app(Settings(roots=(tmp_path,), results_dir=tmp_path))
    real = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    assert set(re.findall(r"^\| `([A-Z]+)` \| `(/\S+)` \|", REST, re.MULTILINE)) == real


def test_every_code_stands_in_the_document_with_its_status() -> None:
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \| (\d+) \|", REST, re.MULTILINE)
    written = {code: int(status) for codes, status in rows for code in re.findall("`([a-z-]+)`", codes)}
    assert written == {code.value: status for code, (status, _) in PROBLEM_TITLES.items()}


def test_every_setting_stands_in_the_document() -> None:
    # Addresses are given in `LADLE_ROOTS`.
    named = {f"LADLE_{name.upper()}" for name in Settings.model_fields.keys() - {"far_roots"}}
    here, monitoring = (set(re.findall("`(LADLE_[A-Z_]+)[`=]", text)) for text in (REST, MONITORING))
    assert here | (monitoring & named) == named


def test_every_public_name_stands_in_the_clients_document() -> None:
    contracts = {"Event", "JobRecord", "JobSpec", "JobState", "AsyncJob", "LadleError"}
    missing = {name for name in ladle.__all__ if not re.search(rf"\b{name}\b", CLIENT)} - contracts
    assert not missing

"""The OpenAPI document against the running service: schemathesis looks for what the two disagree on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ladle_contracts.tokens import hash_token
from tests.integration.api_stack import Stack, api_stack
from tests.polling import DEADLINE_S

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
TOKEN = "a-token-for-schemathesis"
# A spec that the schema allows may still name a path that is not there, and a job that was just made has no result yet:
# both are refused, and rightly.
EXCLUDED = "positive_data_acceptance,ensure_resource_availability"
# Without a worker its answer is 503, which counts as a failure; `test_inspect` has a worker.
ELSEWHERE = "/v1/inspect"
HOOKS = "tests.integration.schemathesis_hooks"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("schema")
    tokens = folder / "tokens"
    tokens.write_text(f"ann:{hash_token(TOKEN)}\n")
    with api_stack(folder / "s", TOKENS_FILE=str(tokens)) as made:
        yield made


@pytest.mark.parametrize("phases", ["examples,coverage,fuzzing", "stateful"])
def test_what_the_service_answers_is_what_its_document_says(stack: Stack, tmp_path: Path, phases: str) -> None:
    """`stateful` submits, shows, cancels and deletes jobs in any order, with ids and cursors from real answers."""
    with stack.client(TOKEN) as client:
        client.submit(*stack.paths).cancel()
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "schemathesis", "run", f"{stack.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {TOKEN}", "--phases", phases),
            *("--max-time", "25", "--max-examples", "60", "--seed", "1"),
            *("--exclude-checks", EXCLUDED, "--exclude-path", ELSEWHERE),
            *("--request-timeout", "10", "--warnings", "off", "--no-color"),
        ],
        env={**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "REAL_PATH": stack.paths[0], "PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=2 * DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:] + stack.process.text()[-2000:]


def python_path() -> str:
    """Where the hooks are, before what is there already."""
    return os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))

"""The OpenAPI document against the running service: schemathesis looks for what the two disagree on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ladle_contracts.tokens import hash_token
from tests.integration.api_stack import api_stack
from tests.polling import DEADLINE_S

REPOSITORY = Path(__file__).parents[2]
TOKEN = "a-token-for-schemathesis"
# A spec that the schema allows may still name a path that is not there, and a job that was just made has no result yet:
# both are refused, and rightly.
EXCLUDED = "positive_data_acceptance,ensure_resource_availability"
HOOKS = "tests.integration.schemathesis_hooks"


@pytest.mark.slow
def test_what_the_service_answers_is_what_its_document_says(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann:{hash_token(TOKEN)}\n")
    with api_stack(tmp_path / "s", TOKENS_FILE=str(tokens)) as stack, stack.client(TOKEN) as client:
        client.submit(*stack.paths).cancel()
        done = subprocess.run(
            [
                *(Path(sys.executable).parent / "schemathesis", "run", f"{stack.url}/openapi.json"),
                *("--header", f"Authorization: Bearer {TOKEN}"),
                *("--max-time", "30", "--max-examples", "60", "--seed", "1"),
                *("--exclude-checks", EXCLUDED),
                *("--request-timeout", "10", "--warnings", "off", "--no-color"),
            ],
            env={**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "REAL_PATH": stack.paths[0], "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=2 * DEADLINE_S,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:] + stack.process.text()[-2000:]

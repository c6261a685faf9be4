"""The short form of `make chaos`, with a fixed seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


def test_three_jobs_with_random_faults_keep_every_invariant() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seed", "7", "--rounds", "3"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every invariant held" in done.stdout

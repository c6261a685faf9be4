"""Models of timm and torchvision, in a process that has both: the checks of `vision_checks.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.tasks.vision import REPOSITORY, needs_vision, vision_environment

CHECKS = Path(__file__).parent / "vision_checks.py"
DEADLINE_S = 1100


@needs_vision
def test_the_checks_of_timm_and_torchvision_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations", "5", str(CHECKS)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=vision_environment(), capture_output=True, text=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout.splitlines()[-1]

"""What ranks inherit from the worker's environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ladle_worker.launch import KEPT_VARIABLES, rank_environment

DOCS = Path(__file__).parents[3] / "docs"


def test_ranks_inherit_what_changes_their_numbers_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setenv("LADLE_REDIS_URL", "redis://:hunter2@host")
    environment = rank_environment(num_ranks=1)
    assert environment["NVIDIA_TF32_OVERRIDE"] == "0"
    assert "hunter2" not in str(environment)


def test_ranks_inherit_every_variable_that_the_docs_tell_people_to_set() -> None:
    advised = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)=", "".join(page.read_text() for page in DOCS.glob("*.md"))))
    assert "NVIDIA_TF32_OVERRIDE" in advised
    assert {name for name in advised if not name.startswith("LADLE_")} <= set(KEPT_VARIABLES)

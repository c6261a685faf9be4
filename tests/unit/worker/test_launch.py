"""What ranks inherit: what the documents advise to set, and no secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ladle_worker.launch.environment import KEPT_VARIABLES, rank_environment

DOCUMENTS = Path(__file__).parents[3] / "docs"
OF_RANKS = re.compile(r"`((?:NVIDIA|CUDA|TORCH|PYTORCH|NCCL|GLOO|OMP|MKL|OPENBLAS|TRITON)_[A-Z0-9_]+)(?:=[^`]*)?`")

OF_IMAGES = {"TORCH_INDEX_URL"}
"""What building a container image takes."""


def test_every_variable_that_the_documents_advise_reaches_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    advised = {name for page in DOCUMENTS.rglob("*.md") for name in OF_RANKS.findall(page.read_text())}
    advised -= OF_IMAGES
    assert "NVIDIA_TF32_OVERRIDE" in advised
    for name in advised:
        monkeypatch.setenv(name, "a value")
    environment = rank_environment(num_ranks=1)
    assert {name for name in advised if environment.get(name) != "a value"} == set()


def test_no_other_variable_reaches_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LADLE_REDIS_URL", "REDIS_URL", "HF_TOKEN", "NVIDIA_API_KEY", "AWS_SECRET_ACCESS_KEY", "TORCH_TOKEN"):
        monkeypatch.setenv(name, "a secret")
        assert name not in KEPT_VARIABLES
    assert "a secret" not in rank_environment(num_ranks=2).values()

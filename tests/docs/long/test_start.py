"""`docs/start.md`, followed word by word: what a new person does, with the real command and the real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.following import follow


@pytest.mark.slow
def test_the_ten_minutes_lead_to_a_model(tmp_path: Path) -> None:
    said = follow("docs/start.md", tmp_path)
    assert "wins: loss" in said
    assert "120,576 parameters" in said
    assert (tmp_path / "ladle-results/averaged/report.json").exists()

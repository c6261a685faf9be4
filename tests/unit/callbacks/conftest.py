from __future__ import annotations

from pathlib import Path

import pytest

from ladle import _stack_file
from tests.unit.callbacks.services import Service, serve


@pytest.fixture(autouse=True)
def _on_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No service of the person who runs the tests is found."""
    monkeypatch.delenv("LADLE_URL", raising=False)
    monkeypatch.delenv("LADLE_TOKEN", raising=False)
    monkeypatch.setattr(_stack_file.platformdirs, "user_state_path", lambda name: tmp_path / "state" / name)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    return serve(tmp_path, monkeypatch)

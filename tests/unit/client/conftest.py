from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from ladle import _stack_file


@pytest.fixture(autouse=True)
def _on_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No service of the person who runs the tests is found."""
    monkeypatch.delenv("LADLE_URL", raising=False)
    monkeypatch.delenv("LADLE_TOKEN", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_stack_file.platformdirs, "user_state_path", lambda name: tmp_path / "state" / name)


@pytest.fixture
def run_async() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine; one that blocks its event loop fails."""

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        with blockbuster_ctx("ladle"):
            asyncio.run(coroutine)

    return run

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from tests.unit.service.fakes import Service, make_service


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LADLE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Without tokens, on loopback."""
    return make_service(tmp_path)


@pytest.fixture
def run_async() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine; a blocking call of the service's on the event loop fails."""

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        with blockbuster_ctx("ladle_service"):
            asyncio.run(coroutine)

    return run

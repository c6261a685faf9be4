"""A far store, a cache of the test's own, and the operator's environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ladle_engine.storage.far import faults
from tests.far_servers import S3, s3_server, use_s3


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_server() as found:
        yield found


@pytest.fixture
def s3(server: S3, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    yield from use_s3(server, monkeypatch)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LADLE_FAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(faults, "WAITS_S", (0.01, 0.02, 0.05))
    return tmp_path / "cache"

"""A far store, a cache of the test's own, and the operator's environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ladle_engine.storage.far import faults
from tests.far_servers import S3, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_server() as found:
        yield found


@pytest.fixture
def s3(server: S3, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for key in server.found():
        server.client().delete_object(Bucket="bucket", Key=key)
    server.requests.clear()
    server.sent = 0
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield server
    server.fault = lambda method, path: None


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LADLE_FAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(faults, "WAITS_S", (0.01, 0.02, 0.05))
    return tmp_path / "cache"

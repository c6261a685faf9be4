from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.far_servers import S3, s3_server, use_s3


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    """One store for the tests of a file."""
    with s3_server() as found:
        yield found


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    yield from use_s3(server, monkeypatch)

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.api_stack import ScriptedNode, Stack, api_stack
from tests.servers import RedisServer, redis_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server of this test's own."""
    with redis_server(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One for the tests of a file that change nothing of the service itself."""
    with api_stack(tmp_path_factory.mktemp("stack")) as made:
        yield made


@pytest.fixture
def node(stack: Stack) -> Iterator[ScriptedNode]:
    made = ScriptedNode(stack.server)
    yield made
    made.close()

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.api_stack import ScriptedNode, Stack, api_stack
from tests.integration.life import Cluster, Gate, cluster
from tests.integration.machine import Machine
from tests.servers import Process, RedisServer, gated_worker, redis_server, running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server of this test's own."""
    with redis_server(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis server for the tests of a file. It does not wait for the disk."""
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        with running.client() as client:
            client.config_set("appendfsync", "no")
        yield running


@pytest.fixture
def machine(shared_server: RedisServer) -> Iterator[Machine]:
    """An empty Redis with a scheduler elected."""
    with shared_server.client() as client:
        client.flushall()
    made = Machine(shared_server)
    yield made
    made.redis.close()


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


@pytest.fixture
def made(server: RedisServer) -> Iterator[Cluster]:
    with cluster(server) as made:
        yield made


@pytest.fixture
def worker(tmp_path: Path, server: RedisServer, data: Path) -> Iterator[Process]:
    """Its ranks can be held at a point by `gate`. `data` is the test file's own: a root with checkpoints and data."""
    with running(gated_worker(tmp_path, server, data)) as process:
        yield process


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "results" / "gates")

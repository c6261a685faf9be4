from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ladle_contracts import JobState
from tests.builders import make_checkpoints, make_val_set
from tests.cluster.hosts import Host, hosts
from tests.integration.gang_jobs import gang_spec
from tests.integration.life import alpha_of, cluster
from tests.kubernetes.stack import Stack, kubernetes_stack
from tests.servers import redis_server, running, worker_process


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_checkpoints(root / "checkpoints")
    make_val_set(root / "val.npz")
    return root


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path) -> list[list[float]]:
    """The coefficients that one rank of an ordinary worker finds."""
    folder = tmp_path_factory.mktemp("alone")
    with redis_server(folder) as server, cluster(server) as made, running(worker_process(folder, server, data)):
        assert made.finish(made.submit(gang_spec(data, nodes=1))).state == JobState.SUCCEEDED
    return alpha_of(folder / "results", "out", "twa")


@pytest.fixture(scope="session")
def machines() -> Iterator[list[Host]]:
    with hosts("n1", "n2") as made:
        yield list(made.values())


@pytest.fixture
def options() -> dict[str, Any]:
    """Of the stack. Tests replace it."""
    return {}


@pytest.fixture
def stack(tmp_path: Path, data: Path, machines: list[Host], options: dict[str, Any]) -> Iterator[Stack]:
    with kubernetes_stack(tmp_path, data, hosts=machines, **options) as made:
        yield made

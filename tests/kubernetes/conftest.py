from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import make_inputs
from tests.cluster.hosts import Host, hosts
from tests.integration.gang_jobs import coefficients_alone
from tests.kubernetes.stack import Stack, kubernetes_stack


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path) -> list[list[float]]:
    """The coefficients that one rank of an ordinary worker finds."""
    return coefficients_alone(tmp_path_factory.mktemp("alone"), data)


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

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.network import Network
from tests.cluster.network import network as whole_network

LONG = "LADLE_LONG_TESTS"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get(LONG):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="only with `make cluster-test LONG=1`"))


@pytest.fixture(scope="session")
def the_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with whole_network(tmp_path_factory.mktemp("network")) as made:
        yield made


@pytest.fixture
def network(the_network: Network) -> Iterator[Network]:
    """One for all tests. Each finds it ready, and leaves it to be healed."""
    the_network.heal()
    yield the_network
    the_network.heal()

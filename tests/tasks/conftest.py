from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.api_stack import Stack, api_stack
from tests.polling import until
from tests.servers import running, worker_process
from tests.tasks.doors import Doors


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The service with a worker of two ranks that has registered."""
    folder = tmp_path_factory.mktemp("doors")
    with (
        api_stack(folder) as made,
        running(worker_process(folder, made.server, folder / "data", LEASE_S="20", STANDBY="1")),
        made.client() as asking,
    ):
        (folder / "data").mkdir(exist_ok=True)
        until(lambda: asking.methods(), what="the worker to register")
        yield made


@pytest.fixture(scope="module")
def doors(stack: Stack, request: pytest.FixtureRequest) -> Doors:
    data = stack.folder / "data" / request.node.path.stem / "data"
    data.mkdir(parents=True)
    return Doors(stack, data)

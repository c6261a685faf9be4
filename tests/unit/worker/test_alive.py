"""The health check of a worker's container: `python -m ladle_worker.alive`."""

from __future__ import annotations

from pathlib import Path

import pytest

from ladle_contracts import keys
from ladle_worker.alive import main
from tests.servers import redis_server


def test_a_node_is_alive_while_its_heartbeat_is_fresh_by_redis_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with redis_server(tmp_path) as server, server.client() as client:
        variables = {"ROOTS": "/data", "RESULTS_DIR": "/results", "NODE_ID": "n", "REDIS_URL": server.url_of("worker")}
        for name, value in variables.items():
            monkeypatch.setenv(f"LADLE_{name}", value)
        assert main() == 1, "it has never been heard of"
        now_ms = client.time()[0] * 1000
        client.hset(keys.node("n"), "heartbeat_at", now_ms)
        assert main() == 0
        client.hset(keys.node("n"), "heartbeat_at", now_ms - 60_000)
        assert main() == 1
        assert "heartbeat of node n is 6" in capsys.readouterr().err
    assert main() == 1
    assert "Redis does not answer" in capsys.readouterr().err

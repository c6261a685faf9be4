"""What a rank leaves when an exchange takes too long."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ladle_worker.flight_recorder import is_timeout


@pytest.mark.slow
def test_a_time_out_leaves_the_last_exchanges_in_a_file_and_in_the_log(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"),
            *("--nproc-per-node=2", "-m", "tests.unit.worker.stuck_rank", str(tmp_path)),
        ],
        env=os.environ
        | {"LADLE_COLLECTIVE_TIMEOUT_S": "2", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[rank 0] 4: gloo:all_reduce of [[7]]" in done.stderr
    # Our own process wrote it a moment ago.
    trace = pickle.loads((tmp_path / "flight-recorder-0").read_bytes())
    assert len(trace["entries"]) == 4


def test_only_what_took_too_long_is_a_time_out() -> None:
    assert is_timeout(RuntimeError("[unbound_buffer.cc:78] Timed out waiting 3000ms for recv operation to complete"))
    assert not is_timeout(RuntimeError("[pair.cc:553] Connection closed by peer [10.0.0.1]:29400"))

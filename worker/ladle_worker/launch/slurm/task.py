"""What submitit runs on each machine of an allocation. It is imported there by this name."""

from __future__ import annotations

import os
import sys

from ladle_contracts.logs import set_up_logging
from ladle_worker.launch import on_node
from ladle_worker.launch.machine import NODE_RANK, NUM_NODES, PEERS


def run(attempt_folder: str) -> None:
    """Ends this process with the machine's status."""
    from submitit import JobEnvironment

    set_up_logging("info")
    here = JobEnvironment()
    own = os.environ.get("SLURMD_NODENAME", "")
    peers = [name for name in here.hostnames if name != own]
    variables = {NUM_NODES: str(here.num_nodes), NODE_RANK: str(here.node), PEERS: ",".join(peers)}
    status = on_node.run(attempt_folder, {**os.environ, **variables})
    sys.stdout.flush()
    sys.exit(status)

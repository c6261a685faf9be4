"""Ranks without a launcher that ends all of them as soon as one dies.

python -m tests.distributed.apart <number of ranks> <the one that nobody waits for, or none> <module> <its arguments>
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import socket
import sys
from collections.abc import Sequence

from ladle_worker.family import die_with_parent


def main(count: int, lost: str, module: str, arguments: Sequence[str]) -> None:
    # For what it imports: each rank runs it anew.
    importlib.import_module(module)
    del sys.modules[module]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    parent, ranks = os.getpid(), dict[str, int]()
    for rank in map(str, range(count)):
        ranks[rank] = os.fork()
        if ranks[rank] == 0:
            die_with_parent(parent)
            os.environ.update(meeting, RANK=rank)
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            os._exit(0)
    for rank, process in ranks.items():
        if rank != lost:
            os.waitpid(process, 0)
    if lost in ranks:
        os.kill(ranks[lost], signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:4], sys.argv[4:])

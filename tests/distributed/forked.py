"""Ranks as Ladle's own launcher starts them: forked from one process that has imported what they need.

python -m tests.distributed.forked <ranks> [-m] <module or script> <its arguments>
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import runpy
import sys
from collections.abc import Sequence

from ladle_worker.preload import why_not_to_fork
from ladle_worker.ranks import run_ranks


def main(ranks: int, program: Sequence[str]) -> int:
    """The exit status: 0 if all ranks ended well."""
    if program[0] == "-m":
        # For what it imports: each rank runs it anew.
        importlib.import_module(program[1])
        del sys.modules[program[1]]
    assert not why_not_to_fork(), why_not_to_fork()
    asked = {"nnodes": 1, "node_rank": 0, "nproc_per_node": ranks, "master_addr": "127.0.0.1", "master_port": 0}
    return run_ranks(argparse.Namespace(**asked, module="tests.distributed.forked", folder=json.dumps(program)))


def become(program: Sequence[str]) -> None:
    """Runs it in this rank."""
    if os.environ["WORLD_SIZE"] == "1":
        # Ladle's launcher has no store for one rank, which makes no process group. Programs of tests may make one.
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    if program[0] == "-m":
        sys.argv = list(program[1:])
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(program)
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        become(json.loads(sys.argv[1]))
    else:
        sys.exit(main(int(sys.argv[1]), sys.argv[2:]))

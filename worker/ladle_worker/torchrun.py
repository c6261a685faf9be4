"""The ranks of one attempt on this machine, confined: `python -m ladle_worker.torchrun PLAN ARGUMENTS MODULE FOLDER`.

The arguments are torchrun's, and so are the variables that ranks find. But torchrun starts every rank as a new Python,
which imports torch again. This one confines itself as the plan says, imports what ranks need, and forks them.

`python -m ladle_worker.torchrun --wait` imports first, and waits until it is told what to run: `launch/standby.py`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ladle_worker.confinement.apply import confine
from ladle_worker.confinement.plan import Plan
from ladle_worker.family import PARENT_VARIABLE

KILLED_STATUS = 128 + signal.SIGKILL
"""The exit status if a rank was killed by SIGKILL, as a shell shows it."""
KILLED_STATUSES = (KILLED_STATUS, -signal.SIGKILL)
"""A rank was killed, or the launcher itself."""


def main(arguments: Sequence[str]) -> int:
    if arguments[0] == "--wait":
        from ladle_worker.waiting import wait_for_command

        arguments = wait_for_command()
    asked = parse(arguments)
    status = confine(Plan.load(Path(asked.plan)))
    if status is not None:
        return status
    # Ranks that have just been started cannot tell from their parent's id alone whether it is still this process.
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    # torch comes after the confinement where it is not there yet: namespaces and Landlock are for one thread.
    from ladle_worker.ranks import run_ranks

    return run_ranks(asked)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ladle_worker.torchrun")
    parser.add_argument("plan", help="how the ranks are confined")
    parser.add_argument("--nnodes", type=int, default=1)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--nproc-per-node", type=int, default=1)
    parser.add_argument("--master-addr", default="127.0.0.1", help="where node rank 0 is")
    parser.add_argument("--master-port", type=int, default=0, help="0 for any that is free, where there is one node")
    parser.add_argument("module", help="what each rank runs")
    parser.add_argument("folder", help="its argument")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

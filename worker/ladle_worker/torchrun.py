"""torchrun, confined: `python -m ladle_worker.torchrun PLAN ARGUMENTS-OF-TORCHRUN...`.

It confines itself as the plan says, and so all ranks, and then is torchrun. torch comes last: namespaces and Landlock
are for a process of one thread.
"""

from __future__ import annotations

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
"""A rank was killed, or torchrun itself."""


def main(plan_path: str, arguments: Sequence[str]) -> int:
    plan = Plan.load(Path(plan_path))
    status = confine(plan)
    if status is not None:
        return status
    # Ranks that torchrun has just started cannot tell from their parent's id alone whether it is still torchrun.
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(list(arguments))
    except ChildFailedError as error:
        print(error, file=sys.stderr, flush=True)
        killed = any(failure.exitcode == -signal.SIGKILL for failure in error.failures.values())
        return KILLED_STATUS if killed else 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1], sys.argv[2:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

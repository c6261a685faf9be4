"""One rank as a plain process, without torchrun and not confined: for tests, which start it in a moment."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ladle_contracts import Reason
from ladle_worker.family import PARENT_VARIABLE
from ladle_worker.launch.children import Children, OnThisMachine
from ladle_worker.launch.environment import rank_environment
from ladle_worker.launch.launcher import CannotLaunch, Ending, Launch
from ladle_worker.relay import log_tail


class Process(OnThisMachine):
    def start(self, launch: Launch) -> None:
        if launch.ranks_per_node != 1 or launch.gang is not None:
            message = "`LADLE_LAUNCHER=process` runs jobs of one rank, but this job has more. Set `torchrun`."
            raise CannotLaunch(Ending(outcome="failed", reason=Reason.INTERNAL_ERROR, message=message))
        self._launch = launch
        command = (sys.executable, "-u", "-m", launch.module, str(launch.folder.path))
        environment = rank_environment(1) | {PARENT_VARIABLE: str(os.getpid())}
        self._children = Children(launch, command, environment)

    def logs(self) -> Sequence[str]:
        return log_tail(self._launch.folder)

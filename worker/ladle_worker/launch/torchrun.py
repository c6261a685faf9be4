"""The launcher on this machine, which does what torchrun does: starts its ranks of one attempt, confined, and ends
them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ladle_worker.confinement.plan import FILES, NETWORK
from ladle_worker.family import WHERE_SIGNAL
from ladle_worker.gang import Gang
from ladle_worker.launch.children import Children, OnThisMachine
from ladle_worker.launch.environment import LOOPBACK_ONLY, rank_environment
from ladle_worker.launch.launcher import Launch
from ladle_worker.launch.standby import STANDBY
from ladle_worker.relay import log_tail
from ladle_worker.tree import Running

TORCHRUN_MODULE = "ladle_worker.torchrun"
WHERE_S = 0.5
"""How long ranks get to write where they are."""


class Torchrun(OnThisMachine):
    """torchrun with its ranks: this machine's part of the attempt."""

    def start(self, launch: Launch) -> None:
        self._launch = launch
        launch.plan.save(launch.folder.plan)
        self._children = Children(launch, command_of(launch), environment_of(launch), STANDBY.start)

    def logs(self) -> Sequence[str]:
        if ranks := self._ranks():
            for rank in ranks:
                with suppress(OSError):
                    os.kill(rank.pid, WHERE_SIGNAL)
            # Python writes it at once; a rank that waits inside the kernel never does.
            time.sleep(WHERE_S)
        return log_tail(self._launch.folder)

    def _ranks(self) -> list[Running]:
        """The only ones with this module in their command, apart from torchrun."""
        alive = () if self._children is None else self._children.alive()
        commands = {process: _command(process.pid) for process in alive}
        return [
            process
            for process, words in commands.items()
            if self._launch.module in words and TORCHRUN_MODULE not in words
        ]


def command_of(launch: Launch) -> list[str]:
    return [
        # Without the working folder among those of modules.
        *(sys.executable, "-P", "-u", "-m", TORCHRUN_MODULE, str(launch.folder.plan)),
        *(() if launch.gang is None else launch.gang.torchrun_arguments),
        f"--nproc-per-node={launch.ranks_per_node or 1}",
        *(launch.module, str(launch.folder.path)),
    ]


def environment_of(launch: Launch) -> Mapping[str, str]:
    own = {}
    if FILES in launch.plan.protections and "TRITON_CACHE_DIR" not in os.environ:
        own["TRITON_CACHE_DIR"] = str(launch.folder.temporary / "triton")
    return environment_with(launch.plan.protections, launch.ranks_per_node or 1, launch.gang) | own


def environment_with(protections: Collection[str], num_ranks: int = 1, gang: Gang | None = None) -> dict[str, str]:
    return rank_environment(num_ranks, gang) | (LOOPBACK_ONLY if NETWORK in protections else {})


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []

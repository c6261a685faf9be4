"""Ranks that ended without saying why: whose failure it was, as far as their agent can tell. See docs/nodes.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ladle_contracts import Reason
from ladle_worker.broken_gpu import LAST_WORDS as BROKEN_GPU
from ladle_worker.broken_gpu import LOST_EACH_OTHER, words_of
from ladle_worker.claim import Claim, Ended
from ladle_worker.disk_faults import naming_disk_faults
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.launch.launcher import Launcher, Status
from ladle_worker.memory_kills import NO_MEMORY, about_memory
from ladle_worker.relay import log_tail
from ladle_worker.settings import Settings
from ladle_worker.torchrun import KILLED_STATUSES

OTHERS_S = 2.0
"""How much longer than a lease another node may take to say why the ranks of a job have ended."""


@dataclass(frozen=True, kw_only=True)
class SilentRanks:
    """Those of one attempt on this node."""

    settings: Settings
    claim: Claim
    folder: AttemptFolder
    await_end: Callable[[float], Ended | None]
    """Waits for another node's word, as `Watch.await_end`."""

    def ended(self, status: Status, launcher: Launcher) -> Ended:
        """Raises `Lost` or `DiskFault`."""
        if status.code == 0 and not self.claim.speaks:
            # Rank 0 still writes the result.
            ended = self.await_end(math.inf)
            assert ended is not None, "it has no limit"
            return ended
        if status.ending is not None:
            ending = status.ending
            log = launcher.logs()
            return Ended(outcome=ending.outcome, reason=ending.reason, message=ending.message, log_tail=log)
        if status.out_of_memory or (status.code and about_memory(log_tail(self.folder))):
            # Another attempt would need as much.
            return Ended(
                outcome="failed",
                reason=Reason.OUT_OF_MEMORY,
                message=NO_MEMORY,
                log_tail=log_tail(self.folder),
            )
        with naming_disk_faults("write the job's files"):
            self.folder.try_writing()
        log = launcher.logs()
        return self._broken_gpu(log) or self._left_by_others(status, log) or _crashed(status, log)

    def _broken_gpu(self, log: Sequence[str]) -> Ended | None:
        fault = words_of(BROKEN_GPU, log)
        if not fault:
            return None
        message = f"A GPU of node `{self.settings.node_id}` does not work: {fault}"
        return Ended(outcome="node-failed", reason=Reason.NODE_UNFIT, message=message, log_tail=log)

    def _left_by_others(self, status: Status, log: Sequence[str]) -> Ended | None:
        """Ranks also end because those of another node have, which knows why. If it is gone, its lease ends first.

        None if no other node says anything. Raises `Lost`.
        """
        if len(self.claim.nodes) == 1 or status.code in KILLED_STATUSES:
            return None
        lost = words_of(LOST_EACH_OTHER, log)
        # Where a rank died of itself, that node speaks before those that only miss it.
        ended = self.await_end(self.settings.lease_s + (2 * OTHERS_S if lost else OTHERS_S))
        if ended is not None or lost is None:
            return ended
        names = ", ".join(f"`{node}`" for node in self.claim.nodes)
        message = f"The ranks of {names} lost each other, though all nodes live. Look at their network: {lost}"
        return Ended(outcome="node-failed", reason=Reason.NODES_CANNOT_MEET, message=message, log_tail=log, nodes=())


def _crashed(status: Status, log: Sequence[str]) -> Ended:
    return Ended(
        outcome="crashed",
        reason=Reason.CRASHED,
        message=f"The ranks ended with status {status.code} and did not say why. Look at the end of the log.",
        log_tail=log,
    )

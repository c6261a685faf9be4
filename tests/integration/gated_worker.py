"""The real worker, but the agent of a job can be held right before `finalize`, the rename of its result, or `end`, and
can be kept from getting ready to meet the other nodes while it holds its lease."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ladle_worker.claim import Claim
from ladle_worker.commit import Commit
from tests.integration.gates import gates_of, hold
from tests.ladle_worker import worker

GATES = Path(os.environ["LADLE_RESULTS_DIR"]) / "gates"


def held(point: str, function: Callable[..., Any], claim_of: Callable[[Any], Claim]) -> Callable[..., Any]:
    def hold_first(self: Any, *arguments: Any) -> Any:
        name = claim_of(self).spec.output.name
        hold(gates_of(GATES, name), f"{name}.{point}")
        return function(self, *arguments)

    return hold_first


def never_ready(self: Claim, place: str) -> tuple[str, tuple[str, ...]]:
    """Where the test put a file `<node>.late`."""
    while (GATES / f"{self._node}.late").exists():
        (GATES / f"{self._node}.late.reached").touch()
        if (answer := self.renew()) != "ok":
            return answer, ()
        time.sleep(0.05)
    return meet(self, place)


meet = Claim.meet

if __name__ == "__main__":
    Claim.meet = never_ready  # type: ignore[method-assign]
    Claim.finalize = held("finalize", Claim.finalize, lambda claim: claim)  # type: ignore[method-assign]
    Claim.end = held("end", Claim.end, lambda claim: claim)  # type: ignore[method-assign]
    Commit._move = held("rename", Commit._move, lambda commit: commit._claim)  # type: ignore[method-assign]
    sys.exit(worker.main())

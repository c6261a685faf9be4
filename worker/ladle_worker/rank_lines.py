"""What ranks print, in the log of the node: for programs that collect logs there."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from ladle_contracts.logs import JSON, log_format

logger = logging.getLogger("ladle_worker.ranks")

RANK = re.compile(r"\[rank(\d+)\]")
"""How torch begins a line of a rank."""


def told_by_ranks(lines: Iterable[str]) -> None:
    """Only where the log is for programs: people have it with the job."""
    if log_format() != JSON:
        return
    for line in lines:
        found = RANK.match(line)
        logger.info("%s", line, extra={"about": {"rank": int(found[1])} if found else {}})

"""How many files may be open at once."""

from __future__ import annotations

import resource


def allow_more_descriptors() -> bool:
    """Raises the process's soft limit to its hard one; whether that gave any more.

    Many checkpoints of many shards each are more files than the usual soft limit of 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return True

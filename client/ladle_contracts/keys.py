"""Names of Redis keys and Celery queues. The layout of each key is in docs/architecture.md."""

from __future__ import annotations

PREFIX = "ladle:"

QUEUE = PREFIX + "queue"
"""Sorted set of queued job ids, ordered by priority (higher first), then submit time."""
ACTIVE = PREFIX + "active"
"""Set of job ids that hold nodes."""
JOBS = PREFIX + "jobs"
"""Sorted set of all job ids by creation time."""
NODES = PREFIX + "nodes"
"""Set of the ids of all nodes ever registered."""
SCHEDULER_LOCK = PREFIX + "scheduler:lock"
SCHEDULER_FENCE = PREFIX + "scheduler:fence"
WAKE_CHANNEL = PREFIX + "wake"
"""Publish anything here and the scheduler looks at once."""

RUN_TASK = "ladle.run"
"""The Celery task's name; its arguments are `(job_id, attempt, node_rank)`."""


def job(job_id: str) -> str:
    """Hash: the record's fields."""
    return f"{PREFIX}job:{job_id}"


def progress(job_id: str) -> str:
    """Hash: the newest progress snapshot."""
    return f"{PREFIX}job:{job_id}:progress"


def events(job_id: str) -> str:
    """Stream: one entry per event."""
    return f"{PREFIX}job:{job_id}:events"


def log(job_id: str) -> str:
    """List: the log's last lines, capped."""
    return f"{PREFIX}job:{job_id}:log"


def leases(job_id: str) -> str:
    """Hash: node id -> end of its lease, in milliseconds of the server's clock."""
    return f"{PREFIX}job:{job_id}:leases"


def owner_jobs(owner: str) -> str:
    """Sorted set of one token's job ids by creation time."""
    return f"{PREFIX}owner:{owner}:jobs"


def idempotency(owner: str, key: str) -> str:
    """Hash: the job id that this key made, and the digest of the body."""
    return f"{PREFIX}idempotency:{owner}:{key}"


def node(node_id: str) -> str:
    """Hash: the node's record and the job it is reserved for."""
    return f"{PREFIX}node:{node_id}"


def node_queue(node_id: str) -> str:
    """The Celery queue of one node."""
    return f"ladle.node.{node_id}"

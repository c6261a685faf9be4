"""Names of Redis keys and Celery queues. The layout of each key is in docs/architecture.md."""

from __future__ import annotations

PREFIX = "ladle:"

QUEUE = PREFIX + "queue"
"""Sorted set of the ids of queued jobs by their places: the time of submit, less ten minutes per point of priority."""
LANES = PREFIX + "lanes"
"""Set of the lanes in which jobs are queued."""
HEAD = PREFIX + "head"
"""String: the id of the job that is next, while it waits for nodes."""
SERVED, SERVED_ALL = PREFIX + "served", PREFIX + "served:all"
"""Hashes: owner -> the number of the last start of a job of theirs: of those in turn, and of all, in gaps too."""
NAMES = PREFIX + "names"
"""Hash: name of a result's folder that somebody has chosen -> the newest job with it, which may have ended."""
TURNS = PREFIX + "turns"
"""Number: how many times jobs were started."""
ACTIVE = PREFIX + "active"
"""Set of the ids of jobs that have nodes."""
JOBS = PREFIX + "jobs"
"""Sorted set of all job ids by creation time."""
FINISHED = PREFIX + "finished"
"""Sorted set of the ids of jobs that have ended by the time of their end."""
WEBHOOKS = PREFIX + "webhooks"
"""Sorted set of the ids of jobs that have ended and of which somebody is still to be told, by when they are due."""
COUNTS = PREFIX + "counts"
"""Hash: what Prometheus is told, such as `ended failed crashed` -> a number that only grows."""
TRACES = PREFIX + "finished:traces"
"""Those of them that still have all their events and their log."""
INDEXED = PREFIX + "indexed"
"""There when jobs of earlier versions have been put into the indexes."""
NODES = PREFIX + "nodes"
"""Set of the ids of the nodes that have registered, until they have been gone for long."""
SCHEDULER_LOCK = PREFIX + "scheduler:lock"
SCHEDULER_FENCE = PREFIX + "scheduler:fence"
TOKENS_USED = PREFIX + "tokens:used"
"""Hash: id of a token -> when it was last used, in seconds since 1970, to the minute."""
WAKE_CHANNEL = PREFIX + "wake"
"""Publish anything here and the scheduler runs at once."""
INSPECTIONS = PREFIX + "inspections"
"""List of requests to inspect a folder, as JSON; any node takes the first one. `inspection` has the answer."""
PROBE = PREFIX + "probe"
"""Never exists. A write that would change it, if it did, shows whether Redis takes writes."""

RUN_TASK = "ladle.run"
"""The name of the Celery task. Its arguments are `(job_id, attempt, node_rank)`."""


def job(job_id: str) -> str:
    """Hash: the fields of the record."""
    return f"{PREFIX}job:{job_id}"


def deleted(job_id: str) -> str:
    """Hash, which expires: `state` and `output` of a job that was deleted, for whoever finds files of it."""
    return f"{PREFIX}deleted:{job_id}"


def progress(job_id: str) -> str:
    """Hash: the latest progress snapshot."""
    return f"{PREFIX}job:{job_id}:progress"


def events(job_id: str) -> str:
    """Stream: one entry per event."""
    return f"{PREFIX}job:{job_id}:events"


def log(job_id: str) -> str:
    """List: the last lines of the log."""
    return f"{PREFIX}job:{job_id}:log"


def leases(job_id: str) -> str:
    """Hash: node id -> end of its lease, in milliseconds of the Redis server's clock."""
    return f"{PREFIX}job:{job_id}:leases"


def webhooks(job_id: str) -> str:
    """Hash: address -> how far the call of it is that tells of the job's end, as JSON."""
    return f"{PREFIX}job:{job_id}:webhooks"


def state_copy(job_id: str) -> str:
    """Hash: name of a file of the resume state -> its content in base64. `/attempt` is the attempt that wrote it."""
    return f"{PREFIX}job:{job_id}:state"


def owner_jobs(owner: str) -> str:
    """Sorted set of the ids of one token's jobs by creation time."""
    return f"{PREFIX}owner:{owner}:jobs"


def state_jobs(state: str) -> str:
    """Sorted set of the ids of all jobs in a state by creation time."""
    return f"{PREFIX}state:{state}"


def owner_state_jobs(owner: str, state: str) -> str:
    """Sorted set of the ids of one token's jobs in a state by creation time."""
    return f"{PREFIX}owner:{owner}:state:{state}"


def lane(owner: str, *, nodes: int = 1, min_nodes: int | None = None, ranks: int = 1, limit: int = 0) -> str:
    """Sorted set: the part of the queue with one owner's jobs of one need. `limit` is 0 without a time limit, else the
    power of two that it does not exceed, in seconds, and 1."""
    return f"{PREFIX}lane:{nodes}:{min_nodes or nodes}:{ranks}:{limit}:{owner}"


def idempotency(owner: str, key: str) -> str:
    """Hash: the id of the job that this key created, and the digest of the body."""
    return f"{PREFIX}idempotency:{owner}:{key}"


def session(key: str) -> str:
    """String, which expires: the id of the token that a page of the dashboard has logged in with."""
    return f"{PREFIX}session:{key}"


def login(key: str) -> str:
    """String, which expires: the id of the token that a code logs in with, once."""
    return f"{PREFIX}login:{key}"


def inspection(request_id: str) -> str:
    """String, which expires: a node's answer to a request, as JSON."""
    return f"{PREFIX}inspection:{request_id}"


def node(node_id: str) -> str:
    """Hash: the node's record and the job it is reserved for."""
    return f"{PREFIX}node:{node_id}"


def node_jobs(node_id: str) -> str:
    """Set of the ids of the jobs that a dispatcher holds."""
    return f"{PREFIX}node:{node_id}:jobs"


def node_queue(node_id: str) -> str:
    """The Celery queue of one node."""
    return f"ladle.node.{node_id}"

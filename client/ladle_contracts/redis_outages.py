"""Which errors of Redis pass with time, or when the operator mends the server, and which are a mistake of Ladle's."""

from __future__ import annotations

import re

_REPLIES = {
    "MISCONF": "Redis refuses writes because it cannot save its data on its disk",
    "READONLY": "Redis refuses writes because this server is a read-only replica",
    "OOM": "Redis refuses writes because its memory is full",
    "NOREPLICAS": "Redis refuses writes because it has too few replicas",
    "LOADING": "Redis has just started and still reads its data",
    "BUSY": "Redis is busy with a script",
    "UNKILLABLE": "Redis is busy with a script",
    "NOSCRIPT": "Redis was restarted a moment ago",
    "EXECABORT": "Redis discarded a transaction",
    "UNBLOCKED": "Redis has changed its role",
    "MASTERDOWN": "Redis does not answer because this server is a replica that has lost its master",
    "CLUSTERDOWN": "Redis does not answer because its cluster is incomplete",
    "TRYAGAIN": "Redis does not answer because its cluster is moving data",
    "MOVED": "Redis is a cluster, which Ladle does not support",
    "ASK": "Redis is a cluster, which Ladle does not support",
    "CROSSSLOT": "Redis is a cluster, which Ladle does not support",
    "NOAUTH": "Redis asks for a password, but the Redis URL has none",
    "WRONGPASS": "Redis does not accept the password or the user in the Redis URL",
    "NOPERM": "Redis does not allow this to the user in the Redis URL",
    "DENIED": "Redis accepts only connections from its own machine",
}
"""The first word of an error reply -> what it means."""

_TEXTS = {
    "ACL failure in script": f"{_REPLIES['NOPERM']} (NOPERM)",
    "The user executing the script can't": f"{_REPLIES['NOPERM']} (NOPERM)",
    "max number of clients": "Redis has too many connections",
    "without any password configured": "Redis needs no password, but the Redis URL has one",
    "DB index is out of range": "Redis has no database of the number in the Redis URL",
    "invalid DB index": "Redis has no database of the number in the Redis URL",
}
"""Replies that begin with a plain `ERR`."""

_TYPES = {
    "BusyLoadingError": "LOADING",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "ExecAbortError": "EXECABORT",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "ClusterCrossSlotError": "CROSSSLOT",
}
"""redis-py's own class for a reply, whose text has lost the first word."""

_CONNECTION_TYPES = {
    "AuthenticationError": _REPLIES["WRONGPASS"],
    "MaxConnectionsError": "All connections to Redis are in use",
    "TimeoutError": "Redis does not answer in time",
    "ConnectionError": "Redis cannot be reached",
    "InvalidResponse": "What answers at the Redis URL is not Redis",
}

# The word begins the reply. Before it there may be what a script (Redis 6) or a pipeline puts in front.
_CODE = re.compile(rf"(?:^|: ?-?|error: \(['\"])({'|'.join(_REPLIES)})(?= |$)")


def outage_of(error: BaseException) -> str | None:
    """Why Redis cannot be used at the moment, as a sentence without its full stop.

    None if waiting does not help: a command that Redis does not understand, which is our mistake, or not an error of
    Redis at all. This package does not import redis-py, so its classes are known by their names.
    """
    classes = _redis_classes(error)
    if not classes:
        return None
    code = _code_of(error, classes)
    if code is not None:
        return f"{_REPLIES[code]} ({code})"
    known = [meaning for text, meaning in _TEXTS.items() if text in str(error)]
    known += [_CONNECTION_TYPES[name] for name in classes if name in _CONNECTION_TYPES]
    return known[0] if known else None


def _redis_classes(error: BaseException | None) -> list[str]:
    return [each.__name__ for each in type(error).__mro__ if each.__module__.startswith("redis.")]


def _code_of(error: BaseException, classes: list[str]) -> str | None:
    # redis-py's asyncio wraps what it is told while it connects, such as NOAUTH, in a plain ConnectionError.
    cause = error.__cause__
    told = _code_of(cause, _redis_classes(cause)) if cause is not None and _redis_classes(cause) else None
    status = getattr(error, "status_code", None)
    if told is not None or status in _REPLIES:
        return told or str(status)
    if found := _CODE.search(str(error)):
        return found[1]
    return next((_TYPES[name] for name in classes if name in _TYPES), None)

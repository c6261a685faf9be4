"""What Redis answers is either an outage, which passes, or a mistake of ours, which does not."""

from __future__ import annotations

import pytest
from redis._parsers.base import BaseParser
from redis.client import Pipeline
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    DataError,
    InvalidResponse,
    MaxConnectionsError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)

from ladle_contracts.redis_outages import outage_of

OUTAGES = {
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.": "disk",
    "MISCONF Errors writing to the AOF file: No space left on device": "disk",
    "READONLY You can't write against a read only replica.": "read-only replica",
    "OOM command not allowed when used memory > 'maxmemory'.": "memory is full",
    "NOREPLICAS Not enough good replicas to write.": "too few replicas",
    "LOADING Redis is loading the dataset in memory": "just started",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": "busy",
    "UNKILLABLE Sorry the script already executed write commands against the dataset.": "busy",
    "NOSCRIPT No matching script. Please use EVAL.": "restarted",
    "EXECABORT Transaction discarded because of previous errors.": "transaction",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)": "role",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": "lost its master",
    "CLUSTERDOWN Hash slot not served": "incomplete",
    "TRYAGAIN Multiple keys request during rehashing of slot": "moving data",
    "MOVED 3999 127.0.0.1:6381": "does not support",
    "NOAUTH Authentication required.": "asks for a password",
    "WRONGPASS invalid username-password pair or user is disabled.": "does not accept",
    "NOPERM User default has no permissions to run the 'set' command": "does not allow",
    "ERR ACL failure in script: User default has no permissions to run the 'set' command script: on @user_script:1.": (
        "does not allow"
    ),
    "ERR The user executing the script can't run this command or subcommand": "does not allow",
    "DENIED Redis is running in protected mode because": "own machine",
    "ERR max number of clients reached": "too many connections",
    "ERR max number of clients + cluster connections reached": "too many connections",
    "ERR AUTH <password> called without any password configured for the default user. Are": "needs no password",
    "ERR DB index is out of range": "no database",
    "ERR Error running script (call to f_a1b2): @user_script:28: @user_script: 28: -READONLY You can't write against "
    "a read only replica.": "read-only replica",
    "ERR Error running script (call to f_a1b2): @user_script:28: @user_script: 28: -MISCONF Redis is configured to "
    "save RDB snapshots": "disk",
    "OOM command not allowed when used memory > 'maxmemory'. script: a1b2, on @user_script:3.": "memory is full",
}

MISTAKES = (
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "ERR unknown command 'FROB', with args beginning with: ",
    "ERR value is not an integer or out of range",
    "ERR user_script:5: Script attempted to access nonexistent global variable 'BUSY script: a1b2, on @user_script:5.",
    "BUSYGROUP Consumer Group name already exists",
    "ERR syntax error near 'READONLY'",
)


@pytest.mark.parametrize(("reply", "words"), OUTAGES.items())
def test_what_passes_with_time_is_an_outage_alone_wrapped_and_in_a_pipeline(reply: str, words: str) -> None:
    error = BaseParser.parse_error(reply)
    assert words in (outage_of(error) or "")
    wrapped = ConnectionError(error)
    wrapped.__cause__ = error
    assert words in (outage_of(wrapped) or "")
    Pipeline.annotate_exception(None, error, 1, ("HSET", "WRONGTYPE: -ERR"))  # type: ignore[arg-type]
    assert words in (outage_of(error) or "")


@pytest.mark.parametrize("reply", MISTAKES)
def test_what_redis_does_not_understand_is_our_mistake(reply: str) -> None:
    assert outage_of(BaseParser.parse_error(reply)) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("Error 111 connecting to localhost:1. Connection refused."), "cannot be reached"),
        (ConnectionError("Connection closed by server."), "cannot be reached"),
        (ConnectionError("No connection available."), "cannot be reached"),
        (TimeoutError("Timeout reading from socket"), "in time"),
        (MaxConnectionsError("Too many connections"), "All connections to Redis are in use"),
        (InvalidResponse("Protocol Error: b'HTTP/1.1 400'"), "is not Redis"),
        # As older versions of redis-py make them: without the reply's first word.
        (BusyLoadingError("x"), "LOADING"),
        (OutOfMemoryError("x"), "OOM"),
        (ReadOnlyError("x"), "READONLY"),
        (AuthenticationError("x"), "does not accept"),
    ],
)
def test_a_server_that_is_away_is_an_outage(error: Exception, words: str) -> None:
    assert words in (outage_of(error) or "")


@pytest.mark.parametrize("error", [ResponseError("x"), DataError("x"), KeyError("MISCONF x"), OSError("MISCONF x")])
def test_other_errors_are_none(error: Exception) -> None:
    assert outage_of(error) is None

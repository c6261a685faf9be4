"""`docker/redis-users.acl`: what the service and the workers may do in Redis, and what is refused."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from ladle_contracts import keys
from ladle_contracts.keys import PREFIX
from ladle_contracts.transitions import SCRIPTS
from tests.redis_users import users_file
from tests.servers import RedisServer, redis_server

OURS = ("service", "worker")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as made:
        yield made


def may(server: RedisServer, user: str, *command: str) -> bool:
    with server.client() as client:
        return bool(client.execute_command("ACL", "DRYRUN", user, *command) == "OK")


def commands_of_scripts() -> set[str]:
    found = {name for script in SCRIPTS.values() for name in re.findall(r"redis\.call\('(\w+)'", script)}
    assert len(found) > 30
    return found


def rules_of(user: str) -> set[str]:
    [line] = [line for line in users_file().splitlines() if line.startswith(f"user {user} ")]
    return set(line.split())


@pytest.mark.parametrize("user", OURS)
def test_what_the_scripts_call_is_allowed_to_those_who_run_them(user: str) -> None:
    missing = {command for command in commands_of_scripts() if f"+{command.lower()}" not in rules_of(user)}
    assert not missing, f"docker/redis-users.acl must let `{user}` use these commands of the Lua scripts"


NO_COMMANDS = {
    *("pipeline", "pubsub", "register_script", "from_url", "from_pool", "close", "delete"),
    *("append", "digest", "dump", "info", "keys", "rename", "restore", "save", "touch", "wait"),
}
"""Methods of redis-py's client that send no command of their name, and names that the code uses for something else."""


@pytest.mark.parametrize(("user", "package"), [("service", "service/ladle_service"), ("worker", "worker/ladle_worker")])
def test_what_the_code_calls_is_allowed(user: str, package: str) -> None:
    texts = [path.read_text() for path in (Path(__file__).parents[2] / package).rglob("*.py")]
    trees = [ast.parse(text) for text in texts if "redis" in text.lower()]
    called = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & set(
        dir(Redis)
    )
    missing = {name for name in called - NO_COMMANDS if not name.startswith("_") and f"+{name}" not in rules_of(user)}
    assert not missing, f"docker/redis-users.acl must let `{user}` use these commands"


ONLY_THE_SERVICES = {"idempotency:", "indexed", "jobs", "names", "scheduler:fence", "scheduler:lock", "turns"}
"""No worker's script uses them. Other keys of the scripts are the workers' too."""


def test_the_keys_of_the_scripts_are_the_workers_too_or_only_the_services() -> None:
    used = {name for script in SCRIPTS.values() for name in re.findall(r"PREFIX \.\. '([^']+)'", script)} - {"wake"}
    rules = rules_of("worker")
    missing = {name for name in used if not {f"~{PREFIX}{name}", f"~{PREFIX}{name}*"} & rules}
    assert missing == ONLY_THE_SERVICES & used, (
        "docker/redis-users.acl must let workers use these keys, or they are listed"
    )


@pytest.mark.parametrize("user", OURS)
@pytest.mark.parametrize(
    "command",
    [
        ("CONFIG", "GET", "*"), ("CONFIG", "SET", "dir", "/tmp"), ("DEBUG", "SLEEP", "0"), ("SHUTDOWN",), ("SAVE",),
        ("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("SCAN", "0"), ("RANDOMKEY",), ("INFO",), ("MONITOR",),
        ("ACL", "LIST"), ("ACL", "SETUSER", "x"), ("ACL", "WHOAMI"), ("CLIENT", "LIST"), ("CLIENT", "KILL", "x:1"),
        ("MODULE", "LIST"), ("REPLICAOF", "x", "1"), ("MIGRATE", "x", "1", "ladle:queue", "0", "9"),
        ("SWAPDB", "0", "1"),
        ("FUNCTION", "LIST"), ("EVAL", "return 1", "0"), ("SCRIPT", "FLUSH"), ("DUMP", "ladle:job:x"),
        ("RENAME", "ladle:job:x", "ladle:job:y"), ("SORT", "ladle:nodes"), ("OBJECT", "HELP"), ("PSUBSCRIBE", "*"),
        ("GET", "other"), ("SET", "other", "x"), ("DEL", "celery"), ("HGETALL", "ladler:job:x"),
        ("LPUSH", "celery", "x"),
        ("SMEMBERS", "_kombu.binding"), ("PUBLISH", "other", "x"), ("SUBSCRIBE", "other"), ("SUBSCRIBE", "ladle:*"),
        ("SUBSCRIBE", "__keyspace@0__:x"), ("PUBLISH", "/0.celery.pidbox", "x"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_ladle_does_not_do_is_refused(server: RedisServer, user: str, command: tuple[str, ...]) -> None:
    assert may(server, "operator", *command), "the command is written as Redis knows it"
    assert not may(server, user, *command)


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("worker", ("SET", keys.SCHEDULER_LOCK, "x")),
        ("worker", ("INCR", keys.SCHEDULER_FENCE)),
        ("worker", ("HGETALL", keys.TOKENS_USED)),
        ("worker", ("HSET", keys.idempotency("ann", "key"), "job", "x")),
        ("worker", ("ZREM", keys.JOBS, "x")),
        ("worker", ("XREAD", "STREAMS", keys.events("x"), "0")),
        ("service", ("BRPOP", keys.node_queue("node-1"), "1")),
        ("service", ("HGETALL", "unacked")),
        ("service", ("BLPOP", keys.INSPECTIONS, "1")),
    ],
    ids=str,
)
def test_each_may_not_do_what_only_the_other_does(server: RedisServer, user: str, command: tuple[str, ...]) -> None:
    [other] = set(OURS) - {user}
    assert may(server, other, *command)
    assert not may(server, user, *command)


def test_a_script_may_do_no_more_than_whoever_runs_it(server: RedisServer) -> None:
    with server.client() as client:
        digest = client.script_load("return redis.call('SET', ARGV[1], 'x')")
    with Redis.from_url(server.url_of("worker")) as worker:
        assert worker.evalsha(digest, 0, keys.node("x"))
        for key in (keys.SCHEDULER_LOCK, "other"):
            with pytest.raises(Exception, match=r"NOPERM|ACL failure|can't access"):
                worker.evalsha(digest, 0, key)


class Deployed(RedisServer):
    """With the default user as it is deployed."""

    @property
    def url(self) -> str:
        return self.url_of("operator")

    def users(self) -> str:
        return users_file()


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[RedisServer]:
    server = Deployed(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
def test_a_password_is_needed_and_nobody_comes_in_without_a_name(tmp_path: Path, deployed: RedisServer) -> None:
    for name, password in (("worker", "service"), ("worker", ""), ("default", ""), ("default", "x"), ("stranger", "x")):
        with pytest.raises(AuthenticationError), connected(tmp_path, name, password) as client:
            client.ping()
    with Redis.from_url(f"unix://{tmp_path}/redis.sock") as client, pytest.raises(AuthenticationError):
        client.ping()
    with connected(tmp_path, "worker", "worker") as client:
        assert client.ping()
        with pytest.raises(NoPermissionError):
            client.config_get("dir")


def test_redis_with_users_reads_all_that_it_has_written_when_it_starts_again(deployed: RedisServer) -> None:
    """Redis 7.0 reads its append-only file as the default user, and refuses it what is in transactions and scripts."""
    with Redis.from_url(deployed.url_of("service")) as service:
        service.set(keys.PROBE, "one")
        with service.pipeline(transaction=True) as pipe:
            pipe.hset(keys.job("x"), "state", "queued")
            pipe.zadd(keys.QUEUE, {"x": 1})
            pipe.execute()
    deployed.stop()
    deployed.start()
    with Redis.from_url(deployed.url_of("service")) as service:
        assert service.exists(keys.PROBE, keys.job("x"), keys.QUEUE) == 3


def connected(folder: Path, name: str, password: str) -> Any:
    return Redis(unix_socket_path=str(folder / "redis.sock"), username=name, password=password)

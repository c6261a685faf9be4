"""Several machines: the head with what was restored from a backup, and a worker on each of two hosts."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import hosts
from engine import Engine
from stack import Stack, init, prepare_folder

Say = Callable[[str], None]
NAMES = ("host-a", "host-b")
HEAD_FILES = ("docker-compose.yml", "docker-compose.head.yml")
WORKER_FILES = ("docker-compose.worker.yml", "docker/test/compose.host.yml")


def back_up(stack: Stack, say: Say) -> Path:
    """As docs/deploy.md says: Redis' append-only file while Redis stands still."""
    backup = stack.work / "redis.tar"
    began = time.monotonic()
    stack.ask("stop", "redis")
    with backup.open("wb") as file:
        stack.engine.pipe("compose", *stack.options(), "cp", "redis:/data/.", "-", env=stack.env, stdout=file)
    stack.ask("start", "redis")
    say(f"backed up {backup.stat().st_size} bytes of Redis, which stood still for {time.monotonic() - began:.1f} s")
    return backup


@contextmanager
def head_from_backup(one: Stack, backup: Path, say: Say) -> Iterator[Stack]:
    """The one machine becomes the head of several; Redis' volume is new, and gets what the backup has."""
    hosts.make_network(one.engine)
    init(one.work, "--head", hosts.HEAD)
    results = one.work / "results"
    results.mkdir()
    results.chmod(0o777)
    head = one.changed(*HEAD_FILES, LADLE_RESULTS=str(results))
    head.ask("create", "--no-build", "redis")
    with backup.open("rb") as file:
        head.engine.pipe("compose", *head.options(), "cp", "-", "redis:/data", env=head.env, stdin=file)
    with head.up(say):
        yield head


def run_all(head: Stack, image: str, say: Say) -> None:
    """Every check; an AssertionError says which one failed."""
    head.outside("knows-job")
    say("ok: the restored Redis knows the job, and its token is as good as before")
    redis_is_published_at_one_address(head)
    say(f"ok: Redis is published at {hosts.HEAD} only")
    addresses = hosts.add_hosts(head.engine, image, NAMES)
    try:
        with ExitStack() as stack:
            workers = {name: worker_on(head, name) for name in NAMES}
            for worker in workers.values():
                stack.enter_context(worker.up(say))
            workers_have_the_network_of_their_host(workers, addresses)
            say(f"ok: workers at {' and '.join(addresses.values())}, without a capability, as users that are not root")
            a_killed_worker_comes_back_and_the_job_goes_on(head, workers, say)
    finally:
        hosts.remove_hosts(head.engine, NAMES)


def worker_on(head: Stack, name: str) -> Stack:
    """What is done on a further machine: copy the worker's keys from the head, run `docker/init.sh --worker`."""
    work = head.work / name
    prepare_folder(head.repo, work)
    (work / "docker" / "keys").mkdir()
    shutil.copytree(head.work / "docker" / "keys" / "worker", work / "docker" / "keys" / "worker")
    init(work, "--worker", hosts.HEAD)
    keys = str(work / "docker" / "keys")
    return head.changed(*WORKER_FILES, work=work, project=name, LADLE_KEYS=keys, TEST_HOST=name)


def redis_is_published_at_one_address(head: Stack) -> None:
    container = head.ask("ps", "--quiet", "redis")
    ports = json.loads(head.engine.ask("inspect", "--format", "{{json .NetworkSettings.Ports}}", container))
    bindings = [binding for each in ports.values() for binding in each or []]
    assert bindings == [{"HostIp": hosts.HEAD, "HostPort": "6379"}], bindings
    assert not head.ask("ps", "--all", "--quiet", "worker"), "the head's own worker must not run"


def workers_have_the_network_of_their_host(workers: dict[str, Stack], addresses: dict[str, str]) -> None:
    for name, worker in workers.items():
        place = "import json, sys; from ladle_worker.gang import place_of; from ladle_worker.settings import Settings; "
        place += "found = place_of(Settings()); print(found.node, found.address)"
        assert worker.ask("exec", "-T", "worker", "python", "-c", place).split() == [name, addresses[name]]
        status = worker.ask("exec", "-T", "worker", "cat", "/proc/self/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(fields["CapBnd"], 16) == 0, f"{name}'s worker may gain capabilities: {fields['CapBnd']}"
        assert worker.ask("exec", "-T", "worker", "id", "-u") != "0", f"{name}'s worker runs as root"


def a_killed_worker_comes_back_and_the_job_goes_on(head: Stack, workers: dict[str, Stack], say: Say) -> None:
    """As if its machine lost power: nothing says goodbye. Docker starts it again."""
    say("a job over both hosts")
    head.outside("start-gang-job")
    killed = workers[NAMES[1]]
    container = killed.ask("ps", "--quiet", "worker")
    kill(head.engine, container)
    say(f"killed the worker of {NAMES[1]} in the middle of the job")
    head.outside("finish-gang-job")
    restarts = head.engine.ask("inspect", "--format", "{{.RestartCount}}", container)
    assert int(restarts) >= 1, "Docker must have started the killed worker again"
    say("ok: the worker came back, and the job went on over both hosts and succeeded")
    digits = head.work / "data" / "digits" / "checkpoints"
    head.outside("check-result", str(head.work / "results" / "from-two-hosts"), str(digits))
    say("ok: the model of both hosts is what its coefficients say")


def kill(engine: Engine, container: str) -> None:
    """Not with `docker kill`: after that Docker would not start it again."""
    engine.within("kill", "-KILL", str(engine.pid_of(container)))

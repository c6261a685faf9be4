"""A cluster of five hosts: Redis and the API on one, a worker on each of three, and one for whoever uses it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
import pytest

from ladle import Client, LadleError
from ladle_contracts import TERMINAL_STATES, Event, JobRecord, JobState, NodeRecord, keys
from ladle_contracts.tokens import Scope, StoredToken, hash_token, make_token
from tests.builders import make_checkpoints, make_val_set
from tests.chaos.invariants import digest, hidden
from tests.chaos.rounds import coefficients
from tests.cluster.hosts import MOUNTS, Host, Mount, hosts, why_not
from tests.integration.life import Gate
from tests.integration.machine import disagreements
from tests.polling import DEADLINE_S, until
from tests.servers import Process, RedisServer, gated_worker, is_alive, redis_server, service_process

T = TypeVar("T")

REFUSED = why_not()
needs_hosts = pytest.mark.skipif(bool(REFUSED), reason=REFUSED)

HEAD, USER, NODES = "head", "user", ("node-1", "node-2", "node-3")
REDIS_PORT, API_PORT = 6379, 8337
LEASE_S = 6.0
"""Short, so that a lost node is soon noticed, and long enough for a busy machine."""
DATA, RESULTS = MOUNTS / "data", MOUNTS / "results"


class Layout(NamedTuple):
    """What a job runs on. With the same layout it finds the same coefficients to the last bit."""

    nodes: int
    ranks: int = 1
    placement: str = "auto"


class Result(NamedTuple):
    coefficients: Any
    """Of every candidate."""
    model: str
    """A digest of the tensors."""

    @classmethod
    def read(cls, folder: Path) -> Result:
        return cls(coefficients(folder), digest(folder / "model.safetensors"))


@dataclass
class Network:
    """The whole cluster. Its services and workers run until it is closed."""

    folder: Path
    hosts: dict[str, Host]
    server: RedisServer
    token: str
    services: dict[str, Process] = field(default_factory=dict)
    """By their host."""
    workers: dict[str, Process] = field(default_factory=dict)
    """By their host, which is also the node's id."""
    num_jobs: int = 0
    _undisturbed: dict[Layout, Result] = field(default_factory=dict)
    _frozen: list[psutil.Process] = field(default_factory=list)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    # What a user does.

    def ask(self, question: Callable[[Client], T], *, at: str = HEAD, token: str | None = None) -> T:
        """Asks the API of a host, over the network."""
        url = f"http://{self.hosts[at].address}:{API_PORT}"
        with self.hosts[USER].inside(), Client(url, token or self.token, patience=DEADLINE_S) as client:
            return question(client)

    def submit(self, layout: Layout, *, hold: str = "", at: str = HEAD) -> RunningJob:
        """`hold` is a point at which its ranks or agents are held. `{name}` in it is the job's own."""
        self.num_jobs += 1
        name = f"out-{self.num_jobs}"
        gate = Gate(self.results / "gates" / name)
        if hold:
            gate.hold(hold.format(name=name))
        resources = {"nodes": layout.nodes, "ranks_per_node": layout.ranks, "placement": layout.placement}
        job = self.ask(
            lambda client: client.submit(
                str(DATA / "checkpoints"),
                str(DATA / "val.npz"),
                method={"name": "twa", "options": {"steps": 30}},
                resources=resources,
                output={"name": name},
            ),
            at=at,
        )
        return RunningJob(self, job.id, name, layout, gate)

    def undisturbed(self, layout: Layout) -> Result:
        """What a job of this layout finds when nothing happens to it. Such a job runs once."""
        if layout not in self._undisturbed:
            job = self.submit(layout)
            ended = job.finish()
            assert (ended.state, ended.attempt, len(ended.nodes)) == (JobState.SUCCEEDED, 1, layout.nodes), ended
            self._undisturbed[layout] = Result.read(job.result)
        return self._undisturbed[layout]

    # What happens to it.

    def freeze(self, process: Process) -> None:
        """SIGSTOP to it and to everything below it."""
        stopped = process.tree()
        self._frozen += stopped
        for each in stopped:
            each.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        for each in self._frozen:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGCONT)
        self._frozen.clear()

    def unheard_s(self, job: RunningJob, node: str) -> float:
        """How long ago a node renewed its lease, by Redis' clock."""
        with self.server.client() as redis:
            seconds, micros = redis.time()
            ends_ms = float(redis.hget(keys.leases(job.id), node) or 0)
        return LEASE_S + seconds + micros / 1e6 - ends_ms / 1000

    def fence(self) -> int:
        """It grows with every scheduler that is elected."""
        with self.server.client() as redis:
            return int(redis.get(keys.SCHEDULER_FENCE) or 0)

    # How it begins, heals and ends.

    def start_service(self, host: str, **variables: str) -> None:
        """`variables` are further ones of its environment."""
        process = service_process(
            self.folder,
            self.server,
            DATA,
            REDIS_URL=self._redis_url,
            RESULTS_DIR=str(RESULTS),
            UDS="",
            HOST=self.hosts[host].address,
            PORT=str(API_PORT),
            TOKENS_FILE=str(MOUNTS / "etc/tokens"),
        )
        process.log = self.folder / f"service-{host}.log"
        self._start(self.services, process, host, variables)

    def start_worker(self, node: str, **variables: str) -> None:
        process = gated_worker(
            self.folder,
            self.server,
            DATA,
            NODE_ID=node,
            REDIS_URL=self._redis_url,
            RESULTS_DIR=str(RESULTS),
            RANK_WRITE=str(RESULTS / "gates"),
            LEASE_S=str(LEASE_S),
            STANDBY="1",
            SWEEP_S="1",
        )
        process.arguments[-1] = "tests.integration.gated_worker"
        self._start(self.workers, process, node, {"TMPDIR": str(MOUNTS / "tmp"), **variables})

    def _start(self, processes: dict[str, Process], process: Process, host: str, variables: Mapping[str, str]) -> None:
        process.environment = {**process.environment, **variables}
        process.arguments = self.hosts[host].command(process.arguments, self._mounts)
        processes[host] = process
        process.start()

    @property
    def _redis_url(self) -> str:
        return f"redis://{self.hosts[HEAD].address}:{REDIS_PORT}/0"

    @property
    def _mounts(self) -> Mapping[str, Mount]:
        return {
            "data": Mount(self.folder / "data", read_only=True),
            "results": Mount(self.results),
            "etc": Mount(self.folder / "etc", read_only=True),
        }

    def node(self, name: str) -> NodeRecord:
        return next(node for node in self.ask(lambda client: client.nodes()) if node.id == name)

    def is_ready(self) -> bool:
        """The API answers, and every node waits for a job."""
        try:
            nodes = self.ask(lambda client: client.nodes())
        except LadleError:
            return False
        return {node.id for node in nodes if node.alive and node.job_id is None} == set(NODES)

    def heal(self) -> None:
        """Whatever a test has done to it is undone, and everything waits for the next job."""
        for host in self.hosts.values():
            host.heal()
        self.thaw()
        for process in (*self.services.values(), *self.workers.values()):
            if process.process is None or process.process.poll() is not None:
                process.start()
        self.ask(forget)
        until(self.is_ready, what="the cluster to be ready", interval_s=0.2)

    def close(self) -> None:
        self.thaw()
        for process in (*self.workers.values(), *self.services.values()):
            if process.process is not None:
                process.process.kill()
                process.process.wait()


@dataclass(frozen=True)
class RunningJob:
    """A job that was submitted."""

    network: Network = field(repr=False)
    id: str
    name: str
    layout: Layout
    gate: Gate = field(repr=False)

    @property
    def result(self) -> Path:
        """The folder of its result."""
        return self.network.results / self.name

    def record(self, *, at: str = HEAD) -> JobRecord:
        return self.network.ask(lambda client: client.job(self.id).status(), at=at)

    def events(self) -> list[Event]:
        return self.network.ask(lambda client: list(client.job(self.id).events(follow=False)))

    def told(self) -> list[str]:
        """The states that it went through."""
        return [str(event.body.state) for event in self.events() if event.body.kind == "state"]

    def wait_at(self, point: str) -> None:
        """Until a rank or an agent has come there. Fails at once if the job has ended."""

        def reached() -> bool:
            if self.gate.reached(point.format(name=self.name)):
                return True
            record = self.record()
            assert record.state not in TERMINAL_STATES, (record.reason, record.message, record.log_tail)
            return False

        until(reached, what=f"{point} of {self}", interval_s=0.2)

    def let_pass(self, point: str) -> None:
        """What is held there, and all that comes to it from now on."""
        self.gate.open(point.format(name=self.name))
        self.gate.let_pass(point.format(name=self.name))

    def wait_for(self, condition: Callable[[JobRecord], Any], *, at: str = HEAD) -> JobRecord:
        """Or for its end."""

        def look() -> JobRecord | None:
            record = self.record(at=at)
            return record if record.state in TERMINAL_STATES or condition(record) else None

        return until(look, what=f"{self}: {self.record(at=at)}", interval_s=0.2)

    def finish(self, *, at: str = HEAD) -> JobRecord:
        return self.wait_for(lambda record: False, at=at)

    def processes(self) -> list[psutil.Process]:
        """torchrun and its ranks, on all hosts. They can be seen from here."""
        return [each for each in psutil.process_iter() if f"/.ladle/{self.id}/" in _command(each)]

    def assert_one_whole_result(self, record: JobRecord) -> None:
        """To the last bit that of a job to which nothing has happened; and of the job itself nothing else is left."""
        assert record.state == JobState.SUCCEEDED, (record.reason, record.message, record.log_tail)
        assert record.result is not None
        files = {path.name: path.stat().st_size for path in self.result.iterdir()}
        assert files == record.result.files
        assert Result.read(self.result) == self.network.undisturbed(self.layout)
        assert [state for state in self.told() if state in TERMINAL_STATES] == ["succeeded"]
        until(lambda: not self.left_overs(), what=f"what is left of {self} to go", interval_s=0.2)

    def left_overs(self) -> list[str]:
        """Processes, files, and what Redis still holds for it."""
        with self.network.server.client() as redis:
            held = [name for name in NODES if redis.hget(keys.node(name), "job") == self.id]
            leases = redis.hkeys(keys.leases(self.id))
            wrong = disagreements(redis)
        files = [
            name
            for name in (*hidden(self.network.results), *_names(self.network.results / ".ladle"))
            if self.id in name
        ]
        return [*map(repr, self.processes()), *files, *held, *leases, *wrong]


def forget(client: Client) -> None:
    """Jobs that have not ended, and failures of nodes."""
    for node in NODES:
        client.uncordon(node)
    for record in client.jobs():
        if record.state not in TERMINAL_STATES:
            client.job(record.id).cancel()


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _command(process: psutil.Process) -> str:
    """Empty for a process that has ended."""
    try:
        return " ".join(process.cmdline()) if is_alive(process) else ""
    except psutil.Error:
        return ""


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """The cluster, ready."""
    for name in ("results/gates", "etc"):
        (folder / name).mkdir(parents=True)
    make_checkpoints(folder / "data/checkpoints")
    make_val_set(folder / "data/val.npz")
    token = make_token()
    stored = StoredToken(name="tester", digest=hash_token(token), scope=Scope.ADMIN)
    (folder / "etc/tokens").write_text(stored.line() + "\n")
    with ExitStack() as stack:
        made = stack.enter_context(hosts(HEAD, USER, *NODES))
        options = ("--port", str(REDIS_PORT), "--bind", made[HEAD].address, "--protected-mode", "no")
        server = stack.enter_context(redis_server(folder, made[HEAD].command(()), options))
        network = Network(folder, made, server, token)
        stack.callback(network.close)
        network.start_service(HEAD)
        for node in NODES:
            network.start_worker(node)
        until(network.is_ready, what="the cluster to be ready", interval_s=0.2)
        yield network

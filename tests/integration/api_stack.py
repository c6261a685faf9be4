"""The real service over a real Redis, a node that does what a test says, and a network that cuts connections."""

from __future__ import annotations

import json
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from ladle import Client, LadleError
from ladle_contracts import EventBody, Inspection, JobResult, JobState, Progress, Reason, keys
from ladle_contracts.transitions import SCRIPTS
from tests.polling import DEADLINE_S, until
from tests.servers import Process, RedisServer, redis_server, running, service_process

NODE = "scripted-node"


@dataclass
class Stack:
    """A running service."""

    folder: Path
    server: RedisServer
    process: Process
    url: str

    def client(self, token: str | None = None, **options: Any) -> Client:
        return Client(self.url, token, **options)

    @property
    def paths(self) -> tuple[str, str]:
        """Checkpoints and validation set that are allowed."""
        return str(self.folder / "data" / "checkpoints"), str(self.folder / "data" / "val")

    @property
    def body(self) -> dict[str, Any]:
        """A spec that is accepted."""
        return dict(zip(("ckpt_dir", "val_set"), self.paths, strict=True))


@contextmanager
def api_stack(
    folder: Path,
    *,
    over_socket: bool = False,
    wrap: Callable[[list[str]], list[str]] = lambda arguments: arguments,
    **settings: str,
) -> Iterator[Stack]:
    """Redis and the service, ready. `wrap` may change the command that starts the service."""
    for path in ("data/checkpoints", "data/val", "results"):
        (folder / path).mkdir(parents=True)
    with redis_server(folder) as server:
        url = f"unix://{folder / 'api.sock'}"
        if not over_socket:
            port = free_port()
            settings |= {"UDS": "", "PORT": str(port)}
            url = f"http://127.0.0.1:{port}"
        process = service_process(folder, server, folder / "data", **settings)
        process.arguments = wrap(process.arguments)
        with running(process):
            if over_socket:
                until((folder / "api.sock").exists, what="the service's socket")
            stack = Stack(folder, server, process, url)
            until(lambda: is_ready(stack), what="the service to be ready")
            yield stack


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def is_ready(stack: Stack) -> bool:
    """Whether the service answers."""
    # httpcore2 does not close a Unix socket to which it could not connect.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with stack.client(patience=0.0) as client:
                return bool(client.version().version)
        except LadleError:
            return False


@dataclass
class ScriptedNode:
    """Speaks to Redis as a node agent would, and does what the test says."""

    server: RedisServer
    offset: int = 0

    def __post_init__(self) -> None:
        self.redis = self.server.client()
        self.call("register", NODE, *("host", "h", "ranks", "4", "gpus", "[]", "version", "1", "torch_version", "2"),
                  *("catalog", '{"methods": [], "tasks": []}'))  # fmt: skip

    def call(self, script: str, *arguments: Any) -> Any:
        return self.redis.register_script(SCRIPTS[script])(args=list(arguments))

    def start(self, job_id: str) -> int:
        """Waits until the scheduler has given it the job, and claims it: the attempt's number."""

        def given() -> int | None:
            self.call("heartbeat", NODE)
            state, attempt = self.redis.hmget(keys.job(job_id), ["state", "attempt"])
            return int(attempt) if state == JobState.SCHEDULED else None

        attempt = until(given, what=f"job {job_id} to be scheduled")
        assert self.call("claim", job_id, attempt, NODE, 60_000)[0] == "ok"
        return attempt

    def report(
        self,
        job_id: str,
        attempt: int,
        *bodies: EventBody,
        lines: tuple[str, ...] = (),
        progress: Progress | None = None,
    ) -> None:
        self.offset += 1
        events = [body.model_dump_json() for body in bodies]
        snapshot = "" if progress is None else progress.model_dump_json()
        answer = self.call("report", job_id, attempt, self.offset, snapshot, len(events), "", *events, *lines)
        assert answer == "ok"

    def succeed(self, job_id: str, attempt: int, result: JobResult) -> None:
        assert self.call("finalize", job_id, attempt, NODE, 60_000) == "ok"
        text = result.model_dump_json()
        assert self.call("end", job_id, attempt, "succeeded", "", "", text, "[]", 0) == "succeeded"

    def fail(self, job_id: str, attempt: int, reason: Reason, message: str, tail: list[str]) -> None:
        answer = self.call("end", job_id, attempt, "failed", reason, message, "", json.dumps(tail), 0)
        assert answer == "failed"

    def inspect(self) -> None:
        """Answers a request to inspect a folder, if there is one: nothing is in it."""
        if text := self.redis.lpop(keys.INSPECTIONS):
            entry = json.loads(text)
            found = Inspection(folder=str(entry["request"]["ckpt_dir"]), usable=False)
            told = {"ok": True, "inspection": found.model_dump(mode="json")}
            self.redis.set(keys.inspection(entry["id"]), json.dumps(told), px=60_000)

    def close(self) -> None:
        try:
            self.call("leave", NODE)
            self.redis.srem(keys.NODES, NODE)
            self.redis.delete(keys.node(NODE))
        except RedisError as error:
            raise AssertionError("Redis must still be there when a test's node goes") from error
        self.redis.close()


@dataclass
class CuttingProxy:
    """Passes connections on to a service, and cuts each one after so many bytes of its answer."""

    target: str
    cut_after: int
    cuts: int = 0
    _listener: socket.socket = field(init=False)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> CuttingProxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=DEADLINE_S)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            parts = urlsplit(self.target)
            assert parts.hostname is not None
            assert parts.port is not None
            far = socket.create_connection((parts.hostname, parts.port))
            self._start(self._pass, near, far, None)
            self._start(self._pass, far, near, self.cut_after)

    def _pass(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        try:
            while data := source.recv(1024 if limit is None else min(1024, limit - passed)):
                sink.sendall(data)
                passed += len(data)
                if passed == limit:
                    self.cuts += 1
                    break
        except OSError:  # the other direction has closed both
            return
        finally:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
                finally:
                    end.close()

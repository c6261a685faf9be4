"""Many connections to the service from one process, for `load.py`: half-open ones, and watchers that count events."""

from __future__ import annotations

import multiprocessing
import resource
import selectors
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

EVENT = b"\nid: "
CONNECT_S = 5.0
SPAWN = multiprocessing.get_context("spawn")


@dataclass
class Client:
    """One client, and what it received."""

    sock: socket.socket
    request: bytes
    events: int = 0
    is_closed: bool = False
    is_refused: bool = False
    """Whether its last request was refused."""
    _tail: bytes = b""

    def ask(self) -> None:
        self.is_refused = False
        self.sock.sendall(self.request)

    def receive(self) -> None:
        try:
            data = self.sock.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self.is_closed = True
        self.is_refused = self.is_refused or data.startswith((b"HTTP/1.1 429", b"HTTP/1.1 503"))
        text = self._tail + data
        self.events += text.count(EVENT)
        self._tail = text[-len(EVENT) + 1 :]


@dataclass
class Crowd:
    """Connections that are read by a thread, so that no kernel buffer fills up."""

    port: int
    clients: list[Client] = field(default_factory=list)
    refused: int = 0
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _done: threading.Event = field(default_factory=threading.Event)

    def come(self, count: int, requests: Sequence[bytes]) -> None:
        """Opens `count` connections, which send these bytes in turn."""
        for number in range(count):
            try:
                sock = socket.create_connection(("127.0.0.1", self.port), timeout=CONNECT_S)
                client = Client(sock, requests[number % len(requests)])
                client.ask()
            except OSError:
                self.refused += 1
                continue
            sock.setblocking(False)
            self.clients.append(client)
            self._selector.register(sock, selectors.EVENT_READ, client)

    def ask_again(self) -> None:
        """As clients do when the service has too much to do at once."""
        for client in self.clients:
            if client.is_refused and not client.is_closed:
                client.ask()

    def having(self, events: int) -> int:
        """How many have received at least so many events."""
        return sum(client.events >= events for client in self.clients)

    @property
    def open(self) -> int:
        """How many the service has not closed."""
        return sum(not client.is_closed for client in self.clients)

    def read(self) -> None:
        while not self._done.is_set():
            for key, _ in self._selector.select(0.1):
                client: Client = key.data
                client.receive()
                if client.is_closed:
                    self._selector.unregister(client.sock)
                    client.sock.close()

    def leave(self) -> None:
        self._done.set()
        for client in self.clients:
            client.sock.close()


@contextmanager
def crowd(port: int) -> Iterator[Crowd]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made = Crowd(port)
    reading = threading.Thread(target=made.read)
    reading.start()
    try:
        yield made
    finally:
        made.leave()
        reading.join()


@dataclass
class Asked:
    """How long answers took, in milliseconds; those that did not come within `timeout_s` are `failures`."""

    answers_ms: list[float] = field(default_factory=list)
    failures: int = 0

    def percentile(self, share: float) -> float:
        known = sorted(self.answers_ms)
        return round(known[min(len(known) - 1, int(share * len(known)))], 1) if known else float("nan")


@contextmanager
def asking_for_health(port: int, pause_s: float, timeout_s: float = 5.0) -> Iterator[Asked]:
    """A process asks for `/healthz` again and again, each time over a new connection."""
    asked = Asked()
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_ask, args=(port, pause_s, timeout_s, theirs))
    process.start()
    ours.recv()
    try:
        yield asked
    finally:
        ours.send("enough")
        asked.answers_ms, asked.failures = ours.recv()
        process.join()


def _ask(port: int, pause_s: float, timeout_s: float, pipe: Connection) -> None:
    answers_ms: list[float] = []
    failures = 0
    pipe.send("ready")
    while not pipe.poll(pause_s):
        began = time.perf_counter()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as sock:
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                is_well = sock.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            is_well = False
        if is_well:
            answers_ms.append(1000 * (time.perf_counter() - began))
        else:
            failures += 1
    pipe.send((answers_ms, failures))

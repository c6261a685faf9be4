"""A process that runs parts one after the other. When a part breaks it (a crash, a hang, an error that leaves the GPU
unusable) the part has failed, and another process runs the rest.

It is forked and not started anew: the parent has imported everything, and has never touched a GPU.
"""

from __future__ import annotations

import gc
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from gpu.machine import load, without_folders
from gpu.parts import Budget, Found, Part, Setting, Skipped
from gpu.processes import die_with_parent, end_tree

PASSED, FAILED, SKIPPED, NOT_RUN = "passed", "failed", "skipped", "not run"
Record = dict[str, Any]
"""What goes into the JSON file of a part."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What all parts are given."""

    parts: Mapping[str, Part]
    device: str
    quick: bool
    budget: Budget


class Worker:
    """Starts its process when it is needed. Call `end` at the end."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._process: Any = None
        self._connection: Connection | None = None

    def run(self, name: str, timeout_s: float, keep: Callable[[Record], None]) -> Record:
        """How the part ended. `keep` gets what it has found until then."""
        connection = self._started()
        connection.send(name)
        started = time.monotonic()
        found: Record = {}
        while True:
            try:
                if not connection.poll(max(0.0, started + timeout_s - time.monotonic())):
                    return self._broken(f"It was ended after {timeout_s:.0f} s.", started, found)
                kind, record = connection.recv()
            except (EOFError, ConnectionResetError):
                self._process.join()
                return self._broken(f"Its process ended {_how(self._process.exitcode)}.", started, found)
            if kind == "found":
                found = record
                keep(found)
                continue
            if kind == "ended, unusable":
                self.end()
            return {**found, **record}

    def end(self) -> None:
        if self._process is not None:
            end_tree(self._process.pid)
            self._process.join()
            self._process = None

    def _started(self) -> Connection:
        if self._process is None:
            context = multiprocessing.get_context("fork")
            self._connection, theirs = context.Pipe()
            sys.stdout.flush()
            sys.stderr.flush()
            self._process = context.Process(target=_serve, args=(theirs, self._connection, self._orders))
            self._process.start()
            # The other end must be the child's alone, or its death would not be seen.
            theirs.close()
        assert self._connection is not None
        return self._connection

    def _broken(self, why: str, started: float, found: Record) -> Record:
        self.end()
        return {**found, "status": FAILED, "seconds": round(time.monotonic() - started, 1), "reason": why}


def _how(exit_code: int) -> str:
    return f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with status {exit_code}"


def _serve(connection: Connection, parents: Connection, orders: Orders) -> None:
    """The process's life."""
    die_with_parent()
    parents.close()
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        record = _run(orders.parts[name], orders, lambda found: connection.send(("found", asdict(found))))
        usable = _free_memory(orders.device)
        connection.send(("ended" if usable else "ended, unusable", record))


def _run(part: Part, orders: Orders, keep: Callable[[Found], None]) -> Record:
    started, before = time.monotonic(), load()
    folder = Path(tempfile.mkdtemp(prefix="ladle-gpu-check-"))
    setting = Setting(
        device=torch.device(orders.device), quick=orders.quick, folder=folder, budget=orders.budget, keep=keep
    )
    try:
        record: Record = {"status": PASSED, **asdict(part.run(setting))}
    except Skipped as skipped:
        record = {"status": SKIPPED, "reason": str(skipped)}
    except Exception as error:
        record = {
            "status": FAILED,
            "reason": without_folders(f"{type(error).__name__}: {error}"),
            "traceback": without_folders(traceback.format_exc()),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {**record, "seconds": round(time.monotonic() - started, 1), "load": before}


def _free_memory(device: str) -> bool:
    """Whether the device can still be used: some of CUDA's errors stay until the process ends."""
    gc.collect()
    if not device.startswith("cuda"):
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.ones(1, device=device)
    except Exception:  # whatever a broken driver, or a torch without CUDA, raises
        return False
    return True

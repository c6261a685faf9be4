"""The agent's side of vetting: starts the process, and compares what the nodes of a job have found."""

from __future__ import annotations

import json
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ladle_contracts import Vetting
from ladle_worker.asked_once import AskedOnce

MODULE = "ladle_worker.vetting"
LIMIT_S = 60.0
"""Its checks take 3 s. On a machine that is very busy, the import of torch alone may take long."""
FRESH = timedelta(seconds=60)
"""A vetting that is not older is not repeated: many small jobs may follow each other."""
SLOW = 3.0
"""A node is named when a figure of it is so many times worse than the median of the others'."""


class Vetter(AskedOnce):
    """The process that looks at this node."""

    def __init__(self, scratch: Path, *, gpus: int, ranks: int, roots: Sequence[str], path: str | None) -> None:
        self._gpus = gpus
        self._log = scratch / "vetting.txt"
        self._until = time.monotonic() + LIMIT_S
        asked = {"gpus": gpus, "ranks": ranks, "roots": list(roots), "path": path}
        super().__init__(MODULE, asked, name="vetting", folder=scratch, log=self._log)

    def poll(self) -> int | None:
        """The exit status; None while it looks. It is ended after its limit."""
        if self._process.poll() is None and time.monotonic() > self._until:
            return -signal.SIGKILL
        return self._process.poll()

    def answer(self) -> Vetting:
        """What it found, or that it failed: a GPU's driver may end or hang the whole process."""
        try:
            return Vetting.read(self._out.read_text())
        except ValueError:
            return Vetting(at=datetime.now(UTC), took_s=LIMIT_S, problem=self._failure() if self._gpus else None)

    def _failure(self) -> str:
        if self._process.poll() is None:
            return f"Its GPUs must answer within {LIMIT_S:g} s, but do not."
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"The look at its GPUs must succeed, but ended with {self._process.poll()}: {(lines or ['?'])[-1]}"


def is_fresh(vetting: Vetting | None) -> bool:
    """Whether it need not be repeated."""
    return vetting is not None and vetting.problem is None and timedelta() <= datetime.now(UTC) - vetting.at < FRESH


def remarks(vettings: Mapping[str, Vetting]) -> Iterator[str]:
    """What a person should know about the nodes of a job: which have other GPUs, and which are slow. By node."""
    yield from _kinds(vettings)
    yield from _slow(vettings, "computes", lambda each: each.flops, _flops)
    yield from _slow(vettings, "adds up between its own ranks", lambda each: each.all_reduce_bytes_per_s, _speed)
    # What comes from memory is fast by chance.
    yield from _slow(
        vettings, "reads the checkpoints", lambda each: None if each.read_from_cache else each.read_bytes_per_s, _speed
    )


def _kinds(vettings: Mapping[str, Vetting]) -> Iterator[str]:
    kinds = {node: ", ".join(sorted({gpu.name for gpu in each.gpus})) or "no GPU" for node, each in vettings.items()}
    if len(set(kinds.values())) < 2:
        return
    slowest = min(vettings, key=lambda node: vettings[node].flops or 0.0)
    told = "; ".join(f"`{node}` has {kind}" for node, kind in kinds.items())
    yield f"The nodes have different GPUs: {told}. All wait for the slowest one, which is `{slowest}`."


def _slow(
    vettings: Mapping[str, Vetting],
    what: str,
    figure: Callable[[Vetting], float | None],
    shown: Callable[[float], str],
) -> Iterator[str]:
    figures = {node: value for node, each in vettings.items() if (value := figure(each))}
    for node, value in figures.items():
        others = [other for name, other in figures.items() if name != node]
        if others and value * SLOW < (usual := statistics.median(others)):
            yield f"Node `{node}` is slow: it {what} at {shown(value)}, and the others at {shown(usual)}."


def _flops(value: float) -> str:
    return f"{value / 1e9:,.0f} GFLOP/s"


def _speed(value: float) -> str:
    return f"{value / 1e9:.2f} GB/s"


def of_places(vettings: Mapping[str, Mapping[str, Any]]) -> dict[str, Vetting]:
    """Of the nodes that have told one."""
    return {node: Vetting.read(json.dumps(told)) for node, told in vettings.items() if told}

"""What this node finds when it looks at itself: `python -m ladle_worker.vetting`.

A process of its own, because it imports torch, and because a GPU or a disk may hang. Reads one line of stdin, `{"gpus":
..., "ranks": ..., "roots": [...], "path": ... or null}`, and prints a `Vetting`. Besides the import of torch its checks
take less than 3 s together, and what is slow is cut short.
"""

from __future__ import annotations

import errno
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from ladle_contracts import Vetting
from ladle_contracts.nodes import GpuState
from ladle_contracts.roots import PathNotAllowed, Roots
from ladle_worker.inputs_seen import _found

READ_S = 0.8
MOST_READ = 64 << 20
LEAST_READ = 4 << 20
"""Of less, the time says nothing about a disk."""
CHUNK = 4 << 20
LOOKED_AT = 200
PROBES = 16
SIDE = 1024
PRODUCTS = 4
REDUCED_BYTES = 4 << 20
MOST_RANKS = 8
REDUCE_S = 1.5
LEAST_FREE = 0.05
"""A GPU of which less is free is in use by another program."""


class Unfit(Exception):
    """This node cannot run a job. The text says why."""


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    print(vet(asked["gpus"], asked["ranks"], asked["roots"], asked["path"]).model_dump_json(), flush=True)
    # A GPU's library may have threads that never end.
    os._exit(0)


def vet(gpus: int, ranks: int, roots: list[str], path: str | None) -> Vetting:
    """`gpus` is how many there were when the node started, `ranks` how many will run here."""
    began = time.monotonic()
    found: dict[str, Any] = {}
    problem = None
    try:
        found |= _devices(gpus)
        found["all_reduce_bytes_per_s"] = _all_reduce(ranks, on_gpus=gpus > 1)
    except (Unfit, RuntimeError) as error:
        # The first line: torch adds advice for debugging.
        problem = str(error).splitlines()[0]
    if path is not None:
        found |= _reading(Path(path), roots)
    problem = problem or found.pop("problem", None)
    return Vetting(at=datetime.now(UTC), took_s=round(time.monotonic() - began, 3), problem=problem, **found)


def _devices(gpus: int) -> dict[str, Any]:
    """Raises `Unfit`, or what torch says of a GPU that does not work."""
    if gpus == 0:
        return {"flops": _flops("cpu")}
    import torch

    there = torch.cuda.device_count()
    if there < gpus:
        raise Unfit(f"The node must have the {gpus} GPUs with which it started, but has {there}.")
    states = tuple(_gpu(index) for index in range(gpus))
    return {"gpus": states, "flops": min(state.flops or 0.0 for state in states)}


def _gpu(index: int) -> GpuState:
    import torch

    with torch.cuda.device(index):
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        if free < LEAST_FREE * total:
            raise Unfit(
                f"GPU {index} ({name}) must have free memory, but {free >> 20} of {total >> 20} MiB are free. "
                "Another program uses it."
            )
        flops = _flops(f"cuda:{index}", torch.cuda.synchronize)
    return GpuState(name=name, free_bytes=free, total_bytes=total, flops=flops)


def _flops(device: str, wait: Callable[[], None] = lambda: None) -> float:
    """The median of a few products. Raises `Unfit` where one is wrong."""
    import torch

    ones = torch.ones(SIDE, SIDE, device=device)
    times = []
    for number in range(PRODUCTS + 1):
        wait()
        began = time.perf_counter()
        product = ones @ ones
        wait()
        if number:
            times.append(time.perf_counter() - began)
        if not bool((product == SIDE).all()):
            raise Unfit(f"A product of two matrices on {device} must be right, but is not.")
    return 2 * SIDE**3 / max(statistics.median(times), 1e-9)


def _all_reduce(ranks: int, *, on_gpus: bool) -> float | None:
    """Bytes per second of one all-reduce inside this node. None for one rank. Raises `Unfit`."""
    if on_gpus:
        return _reduce_gpus()
    ranks = min(ranks, MOST_RANKS)
    return _reduce_threads(ranks) if ranks > 1 else None


def _reduce_gpus() -> float:
    """NCCL in one process: over the same links as between ranks."""
    import torch
    from torch.cuda import nccl

    count = torch.cuda.device_count()
    parts = [torch.ones(REDUCED_BYTES // 4, device=f"cuda:{index}") for index in range(count)]
    times = []
    for _ in range(2):
        began = time.perf_counter()
        nccl.all_reduce(parts)
        for index in range(count):
            torch.cuda.synchronize(index)
        times.append(time.perf_counter() - began)
    if any(not bool((part == count**2).all()) for part in parts):
        raise Unfit("A sum over the GPUs of the node must be right, but is not.")
    return REDUCED_BYTES / times[-1]


def _reduce_threads(ranks: int) -> float:
    """gloo between threads of this process, over the loopback interface as between ranks."""
    import torch
    import torch.distributed as dist

    store, timeout = dist.HashStore(), timedelta(seconds=REDUCE_S)  # type: ignore[attr-defined]
    parts = [torch.ones(REDUCED_BYTES // 4) for _ in range(ranks)]
    times, errors = [], []

    def run(rank: int) -> None:
        try:
            group = dist.ProcessGroupGloo(store, rank, ranks, timeout)
            began = time.perf_counter()
            group.allreduce([parts[rank]]).wait()  # type: ignore[attr-defined]
            times.append(time.perf_counter() - began)
        except RuntimeError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * REDUCE_S)
    if errors or len(times) < ranks:
        why = errors[0] if errors else "they are silent"
        raise Unfit(f"The {ranks} ranks of a node must reach each other, but do not: {why}.")
    if any(not bool((part == ranks).all()) for part in parts):
        raise Unfit("A sum over the ranks of the node must be right, but is not.")
    return REDUCED_BYTES / max(times)


def _reading(path: Path, roots: list[str]) -> dict[str, Any]:
    """How fast the largest of the first files of a folder is read. Empty where there is none, or it is too small."""
    with Roots(roots) as opened:
        try:
            _, files = _found(path, opened)
            file, size = max(islice(files, LOOKED_AT), key=lambda each: each[1], default=(path, 0))
            if size < LEAST_READ:
                return {}
            descriptor = opened.open(file, os.O_RDONLY)
        except (OSError, PathNotAllowed):
            # The look at the inputs and the ranks say it better.
            return {}
        try:
            return _read(descriptor, min(size, MOST_READ))
        except OSError as error:
            return {"problem": f"The node must be able to read `{file}`, but cannot: {error.strerror}."}
        finally:
            os.close(descriptor)


def _read(descriptor: int, size: int) -> dict[str, Any]:
    with suppress(OSError):
        os.posix_fadvise(descriptor, 0, size, os.POSIX_FADV_DONTNEED)
    from_cache = _is_cached(descriptor, size)
    began, done = time.perf_counter(), 0
    while done < size and time.perf_counter() - began < READ_S:
        if not (got := len(os.pread(descriptor, CHUNK, done))):
            break
        done += got
    took = time.perf_counter() - began
    return {"read_bytes_per_s": done / max(took, 1e-9), "read_from_cache": from_cache}


def _is_cached(descriptor: int, size: int) -> bool | None:
    """Whether most of a file is in memory although it was asked to leave: somebody uses it, or that is its place."""
    hits = 0
    for number in range(PROBES):
        try:
            hits += os.preadv(descriptor, [bytearray(1)], number * (size // PROBES), os.RWF_NOWAIT)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                return None
    return hits > PROBES / 2


if __name__ == "__main__":
    main()

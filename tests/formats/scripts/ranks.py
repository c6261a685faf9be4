"""Functions on several ranks: processes on the CPU that talk by gloo."""

from __future__ import annotations

import datetime
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(function: Callable[..., None], *arguments: Any, world: int = 2) -> None:
    """Calls `function(*arguments)` on every rank of a process group. It must be a module's own function."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        mp.spawn(_rank, args=(world, port, Path(folder) / "store", function, arguments), nprocs=world)


def _rank(rank: int, world: int, port: int, store: Path, function: Callable[..., None], arguments: tuple[Any]) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.manual_seed(0)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(store), world),
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=120),
    )
    try:
        function(*arguments)
    finally:
        dist.destroy_process_group()

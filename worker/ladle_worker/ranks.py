"""Forks the ranks of one machine, and waits for them. It has imported what they need."""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType

from torch import set_num_threads
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ladle_worker.family import die_with_parent
from ladle_worker.preload import import_engine
from ladle_worker.process_words import show_command
from ladle_worker.torchrun import KILLED_STATUS

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
TOGETHER_S = 0.1
"""Ranks that end within this time are looked at together: if one is killed, others end because of it."""
OTHERS_S = 15.0
"""How long the first node's store waits for the ranks of other nodes to end."""
GRACE_S = 10.0
"""The time between SIGTERM and SIGKILL for the others when one rank has failed."""


class Terminated(BaseException):
    """A signal asked this process to end."""


def run_ranks(asked: argparse.Namespace) -> int:
    """The exit status: 0 if all ranks ended well."""
    import_engine()
    _raise_when_asked_to_end()
    listener = _listener(asked)
    port = listener.getsockname()[1] if listener is not None else asked.master_port
    ranks: dict[int, int] = {}
    try:
        for local_rank in range(asked.nproc_per_node):
            ranks[_fork(asked, local_rank, port)] = local_rank
        # Its thread must not be there before the forks.
        store = _serve(asked, listener)
        status = _wait(ranks)
        if status == 0 and asked.nnodes > 1:
            _end_together(asked, store)
    except Terminated:
        status = 128 + signal.SIGTERM
    finally:
        _end(ranks)
    return status


def _raise_when_asked_to_end() -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Terminated

    for number in SIGNALS:
        signal.signal(number, stop)


def _listener(asked: argparse.Namespace) -> socket.socket | None:
    """Where ranks find each other: on the first node, if there is more than one rank."""
    if asked.node_rank > 0 or asked.nnodes * asked.nproc_per_node == 1:
        return None
    family = socket.AF_INET6 if ":" in asked.master_addr else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((asked.master_addr, asked.master_port))
    listener.listen(socket.SOMAXCONN)
    return listener


def _serve(asked: argparse.Namespace, listener: socket.socket | None) -> TCPStore | None:
    """The store answers as long as the object is there. Ranks that came earlier wait in the listener's queue."""
    if listener is None:
        return None
    port = listener.getsockname()[1]
    return TCPStore(asked.master_addr, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def _end_together(asked: argparse.Namespace, store: TCPStore | None) -> None:
    """The store stays until the ranks of all nodes have ended, because libraries may ask it to the last."""
    timeout = timedelta(seconds=OTHERS_S)
    # A node that has failed says nothing; its agent knows.
    with suppress(RuntimeError):
        if store is not None:
            store.wait([f"ended/{node_rank}" for node_rank in range(1, asked.nnodes)], timeout)
        else:
            own = TCPStore(asked.master_addr, asked.master_port, is_master=False, timeout=timeout)
            own.set(f"ended/{asked.node_rank}", "1")


def _fork(asked: argparse.Namespace, local_rank: int, port: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        status = _become_rank(asked, local_rank, port, parent)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        # Ending the interpreter while threads of torch run was seen to abort once.
        os._exit(status)


def _become_rank(asked: argparse.Namespace, local_rank: int, port: int, parent: int) -> int:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    # A group of its own, which can be signalled as a whole.
    os.setsid()
    die_with_parent(parent)
    os.environ.update(_variables(asked, local_rank, port))
    # A launcher that waited was started before it was known how many ranks share the cores.
    set_num_threads(int(os.environ.get("MKL_NUM_THREADS") or os.environ["OMP_NUM_THREADS"]))
    show_command([sys.executable, "-u", "-m", asked.module, asked.folder])
    sys.argv = [asked.module, asked.folder]
    runpy.run_module(asked.module, run_name="__main__", alter_sys=True)
    return 0


def _variables(asked: argparse.Namespace, local_rank: int, port: int) -> Mapping[str, str]:
    """Those of torchrun."""
    size = asked.nnodes * asked.nproc_per_node
    rank = asked.node_rank * asked.nproc_per_node + local_rank
    numbers = {
        "RANK": rank,
        "LOCAL_RANK": local_rank,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": asked.nproc_per_node,
        "GROUP_RANK": asked.node_rank,
        "GROUP_WORLD_SIZE": asked.nnodes,
        "ROLE_RANK": rank,
        "ROLE_WORLD_SIZE": size,
        "MASTER_PORT": port,
        "TORCHELASTIC_RESTART_COUNT": 0,
        "TORCHELASTIC_MAX_RESTARTS": 0,
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", 1),
    }
    return {name: str(number) for name, number in numbers.items()} | {
        "MASTER_ADDR": asked.master_addr,
        # The store is in this process, not in rank 0.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": Path(asked.folder).name,
        "ROLE_NAME": "default",
    }


def _wait(ranks: dict[int, int]) -> int:
    """Until all have ended, or some have failed: then the others are still in `ranks`."""
    failed: dict[int, int] = {}
    while ranks and not failed:
        failed = _ended(ranks, 0)
        if failed:
            time.sleep(TOGETHER_S)
            failed |= _ended(ranks, os.WNOHANG)
    for local_rank, code in failed.items():
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        print(f"rank {local_rank} of this machine {how}", file=sys.stderr, flush=True)
    if -signal.SIGKILL in failed.values():
        return KILLED_STATUS
    return 1 if failed else 0


def _ended(ranks: dict[int, int], options: int) -> dict[int, int]:
    """Takes those that have ended out of `ranks`; the local ranks and exit codes of those that failed.

    As the first process of a namespace this one also gets what ranks have left behind.
    """
    failed = {}
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, options)
            if pid == 0:
                break
            local_rank, code = ranks.pop(pid, None), os.waitstatus_to_exitcode(status)
            if local_rank is not None and code != 0:
                failed[local_rank] = code
            if not ranks or not options:
                break
    return failed


def _end(ranks: dict[int, int]) -> None:
    _signal(ranks, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while ranks and time.monotonic() < until:
        _ended(ranks, os.WNOHANG)
        time.sleep(0.01)
    _signal(ranks, signal.SIGKILL)


def _signal(ranks: Mapping[int, int], number: signal.Signals) -> None:
    for pid in ranks:
        with suppress(OSError):
            os.killpg(pid, number)

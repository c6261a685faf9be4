"""Starts `rank.py` as several ranks, with torchrun, or as one process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gpu.jobs import Job
from gpu.machine import without_folders
from gpu.processes import die_with_parent, end_tree

SCRIPT = Path(__file__).with_name("rank.py")
ALLOWED_S = 150
LAST_LINES = 60
NOT_RUN = "was not run to its end"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How ranks ended."""

    jobs: dict[str, str]
    """Name -> `ok`, or what was raised, or `NOT_RUN`."""
    said: list[str]
    """Their last lines, and the exit status; nothing when all is well."""


def start(
    folder: Path,
    made: Path,
    jobs: Mapping[str, Job],
    device: str,
    *,
    ranks: int | None = None,
    backend: str = "gloo",
    options: Sequence[str] = (),
) -> Ended:
    """Runs the jobs on that many ranks; without `ranks` in one process without a process group.

    Outputs are in `folder/outputs`, resume states in `folder/states`. `options` are those of `rank.py`.
    """
    folder.mkdir(exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps([{"name": name, **asdict(job)} for name, job in jobs.items()]))
    (folder / "ended.json").unlink(missing_ok=True)
    (folder / "outputs").mkdir(exist_ok=True)
    launcher = (
        (*("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"),) if ranks is not None else ()
    )
    said = _run([sys.executable, *launcher, str(SCRIPT), str(folder), str(made), device, backend, *options], ranks or 1)
    ended = folder / "ended.json"
    found: dict[str, str] = json.loads(ended.read_text()) if ended.exists() else {}
    return Ended(jobs={name: found.get(name, NOT_RUN) for name in jobs}, said=[] if len(found) == len(jobs) else said)


def _run(command: list[str], ranks: int) -> list[str]:
    """What the processes said last, and how they ended."""
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    process = subprocess.Popen(
        command,
        env={"OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo"} | dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=die_with_parent,
    )
    try:
        said, _ = process.communicate(timeout=ALLOWED_S)
    except subprocess.TimeoutExpired:
        end_tree(process.pid)
        said, _ = process.communicate()
        said += f"\nended after {ALLOWED_S} s"
    finally:
        end_tree(process.pid)
    last = without_folders(said).strip().splitlines()[-LAST_LINES:]
    return [*last, f"exit status {process.returncode}"]

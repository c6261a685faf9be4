"""One rank: runs the jobs that it is told, one after the other, and says after each how it ended.

    torchrun ... benchmarks/gpu/rank.py FOLDER MADE DEVICE BACKEND [--ranks-per-node N] [--cut-after N]

FOLDER holds `jobs.json`, a list of names and of the fields of `gpu.jobs.Job`, and MADE what `gpu.jobs.make` made for
each of their networks. Rank 0 writes `ended.json`: name -> `ok`, or what was raised. With `--ranks-per-node` so many
ranks count as a node. With `--cut-after` the process ends without a word once N training steps are saved, as if it had
been killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY / "worker"), str(REPOSITORY / "client"), str(REPOSITORY / "benchmarks")]

from gpu.processes import die_with_parent  # noqa: E402

die_with_parent()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from datetime import timedelta  # noqa: E402
from typing import NoReturn  # noqa: E402

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from gpu.jobs import Job  # noqa: E402
from gpu.switches import cut_after, saving_always  # noqa: E402

TIMEOUT = timedelta(seconds=40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("made", type=Path)
    parser.add_argument("device", choices=("cpu", "cuda"))
    parser.add_argument("backend")
    parser.add_argument("--ranks-per-node", type=int)
    parser.add_argument("--cut-after", type=int, default=sys.maxsize)
    arguments = parser.parse_args()
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cpu")
    if arguments.device == "cuda":
        # With fewer GPUs than ranks they share one.
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
        torch.ones(1, device=device)
    if "RANK" in os.environ:
        dist.init_process_group(arguments.backend, timeout=TIMEOUT)
    if arguments.ranks_per_node:
        os.environ["LOCAL_WORLD_SIZE"] = str(arguments.ranks_per_node)
    ended: dict[str, str] = {}
    for entry in json.loads((arguments.folder / "jobs.json").read_text()):
        name, job = entry.pop("name"), Job(**entry)
        ended[name] = _run(name, job, arguments, device)
        if rank == 0:
            (arguments.folder / "ended.json").write_text(json.dumps(ended))
    # FSDP2's caches hold on to the process group, whose threads would run on while the interpreter is taken down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _run(name: str, job: Job, arguments: argparse.Namespace, device: torch.device) -> str:
    """`ok`, or the error: one placement that fails keeps no other from its turn."""
    folder = arguments.folder
    made, output, state = arguments.made / job.net, folder / "outputs" / name, folder / "states" / name
    try:
        with saving_always(), cut_after(arguments.cut_after, _end):
            job.run(made, device, output, state=state)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


def _end() -> NoReturn:
    os._exit(9)


if __name__ == "__main__":
    main()

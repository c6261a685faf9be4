"""An agent without Redis, for tests: starts ranks, tells what runs, and ends them when it is told to.

Each line of stdin is a command: `end`, or the path of a folder for another attempt of the same job. Answers in lines of
JSON. `python -m tests.unit.worker.agent_alone FOLDER JOB MODULE PROTECTIONS`
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ladle_worker.confinement.plan import Plan, devices, readable, writable
from ladle_worker.family import adopt_orphans
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.launch.launcher import Launch
from ladle_worker.launch.torchrun import Torchrun


def start(folder: Path, job: str, module: str, protections: tuple[str, ...]) -> Torchrun:
    folder.mkdir(exist_ok=True)
    attempt = AttemptFolder(folder)
    attempt.make()
    plan = Plan(
        agent=os.getpid(),
        protections=protections,
        inputs=(str(folder),),
        outputs=str(folder),
        read=readable([], [], []),
        write=writable([folder], []),
        devices=devices(),
    )
    ranks = Torchrun()
    ranks.start(
        Launch(
            folder=attempt,
            job_id=job,
            attempt=1,
            mark=job,
            num_nodes=1,
            ranks_per_node=1,
            module=module,
            plan=plan,
        )
    )
    return ranks


def main() -> None:
    folder, job, module, protections = sys.argv[1:]
    adopt_orphans()
    ranks = start(Path(folder), job, module, tuple(filter(None, protections.split(","))))
    print(json.dumps(ranks.pid), flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            ranks.cancel(0.2)
            print(json.dumps("ended"), flush=True)
        else:
            ranks = start(Path(line.strip()), job, module, ())
            print(json.dumps(ranks.pid), flush=True)


if __name__ == "__main__":
    main()

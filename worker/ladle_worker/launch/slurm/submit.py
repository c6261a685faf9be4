"""One allocation for one attempt, asked for through submitit."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ladle_worker.launch.environment import KEPT_VARIABLES
from ladle_worker.launch.launcher import Launch
from ladle_worker.launch.slurm.commands import SlurmRefused, ask, trouble
from ladle_worker.launch.slurm.settings import SlurmSettings

OF_THIS_MACHINE = {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "TMPDIR"}
MARGIN_S = 120
"""Beyond `resources.timeout_s`, for the start and for the agent, which says more than Slurm when it is over."""


def minutes_of(settings: SlurmSettings, timeout_s: float | None) -> int:
    """The time of an allocation. `timeout_s` is what is left of the job's own limit."""
    if timeout_s is None:
        return settings.time
    return min(settings.time, math.ceil((timeout_s + MARGIN_S + settings.signal_s) / 60))


def parameters(
    settings: SlurmSettings,
    *,
    nodes: int,
    ranks: int | None,
    minutes: int,
    after: Sequence[str] = (),
    min_nodes: int | None = None,
) -> Mapping[str, Any]:
    """For submitit. `after` are the jobs that must have ended before."""
    gpus = settings.gpus_per_node and (ranks or settings.gpus_per_node)
    # submitit itself needs a number.
    fewer = {} if min_nodes is None else {"nodes": f"{min_nodes}-{nodes}"}
    more = {
        **fewer,
        # Ladle itself tries again, under a new number: the same attempt never runs twice.
        "no_requeue": True,
        # Nothing else of the dispatcher's variables, because there are passwords among them.
        "export": ",".join(sorted({*KEPT_VARIABLES} & {*os.environ} - OF_THIS_MACHINE)) or "NIL",
        "reservation": settings.reservation,
        "dependency": f"afterany:{':'.join(after)}" if after else None,
    }
    found = {
        "nodes": nodes,
        "ntasks_per_node": 1,
        "time": minutes,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "cpus_per_task": settings.cpus_per_node,
        "mem": settings.mem,
        "gpus_per_node": gpus or None,
        "signal_delay_s": settings.signal_s,
        "additional_parameters": {name: value for name, value in more.items() if value is not None},
    }
    return {name: value for name, value in found.items() if value is not None}


def submit(launch: Launch, settings: SlurmSettings, name: str, wanted: Mapping[str, Any]) -> str:
    """The id of Slurm's job. Raises `SlurmAway` or `SlurmRefused`."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    from ladle_worker.launch.slurm import task

    folder = launch.folder.path / "slurm"
    try:
        executor = SlurmExecutor(folder=folder, python=shlex.quote(str(settings.python)))
        executor.update_parameters(
            job_name=name,
            stderr_to_stdout=True,
            # When one machine's ranks have failed, those of the others wait for them in vain.
            srun_args=["--kill-on-bad-exit=1"],
            # `--export` must not hold for `srun` too, or it would hide what the setup script sets.
            setup=["unset SLURM_EXPORT_ENV", *([f". {shlex.quote(str(settings.setup))}"] if settings.setup else [])],
            **wanted,
        )
        return str(executor.submit(task.run, str(launch.folder.path)).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        raise trouble(str(error)) from error
    except RuntimeError as error:
        raise SlurmRefused(f"{error}") from error


def rehearse(settings: SlurmSettings) -> None:
    """Asks Slurm whether it would take a job of one node. Raises `SlurmAway` or `SlurmRefused`."""
    wanted = dict(parameters(settings, nodes=1, ranks=None, minutes=settings.time))
    del wanted["signal_delay_s"], wanted["additional_parameters"]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in wanted.items()]
    more = [f"--reservation={settings.reservation}"] if settings.reservation else []
    ask("sbatch", "--test-only", "--no-requeue", *flags, *more, "--wrap=true")

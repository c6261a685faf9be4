"""One rank: reads the job, runs the engine and writes the outcome. It does not know Redis and has no password.

torchrun ... -m ladle_worker.rank <attempt folder>
"""

from __future__ import annotations

# Before torch is imported, because that takes seconds in which the parent may be killed.
from ladle_worker.family import WHERE_SIGNAL, die_with_parent, parent_of_ranks

die_with_parent(parent_of_ranks())

import faulthandler  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from datetime import timedelta  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from ladle_contracts import JobSpec, Reason  # noqa: E402
from ladle_engine import Outcome, average  # noqa: E402
from ladle_engine.progress import Warned, on_pulse  # noqa: E402
from ladle_engine.storage.host_memory import free_host_bytes  # noqa: E402
from ladle_worker import flight_recorder  # noqa: E402
from ladle_worker.boundary import confine_reading  # noqa: E402
from ladle_worker.confinement.limits import limit_memory  # noqa: E402
from ladle_worker.convert import average_arguments, job_result, not_understood  # noqa: E402
from ladle_worker.disk_faults import naming_disk_faults  # noqa: E402
from ladle_worker.failure import Failure, failure_of, log_failure  # noqa: E402
from ladle_worker.far_table import far_files  # noqa: E402
from ladle_worker.job_folder import AttemptFolder  # noqa: E402
from ladle_worker.standard_streams import print_whatever_happens  # noqa: E402
from ladle_worker.told import Events, beating  # noqa: E402

COLLECTIVE_TIMEOUT_S = 120.0
"""gloo's own default is 30 minutes, and a job that hangs would look like a slow one for that long."""


def main(attempt_folder: str) -> int:
    """0 if the outcome was told, good or bad. Anything else is a crash, and the agent tries again."""
    print_whatever_happens()
    folder = AttemptFolder(Path(attempt_folder))
    faulthandler.register(WHERE_SIGNAL)
    flight_recorder.prepare(folder.path)
    with _process_group() as rank:
        try:
            with naming_disk_faults("read the job's files"):
                job = json.loads(folder.job.read_text())
            if job["limit_memory"]:
                limit_memory(free_host_bytes())
            on_pulse(beating(folder.pulse))
            with Events(folder.events) as events:
                outcome = _average(job, events)
            result = job_result(outcome, job["destination"]).model_dump(mode="json")
            result["warnings"] += not_understood(JobSpec.read(json.dumps(job["spec"])))
        except Exception as error:
            failure = failure_of(error)
            if failure is None:
                if flight_recorder.is_timeout(error):
                    flight_recorder.tell(folder.path)
                raise
            _tell(folder, failure)
            log_failure(failure, error)
            return 0
        if rank == 0:
            folder.tell({"ok": True, "result": result})
    return 0


def _tell(folder: AttemptFolder, failure: Failure) -> None:
    """Every rank meets bad input, but one word is enough; a rank that alone ran out of memory says so itself.

    An error that nobody foresaw, or that may pass, may only follow from one that another rank has told of already.
    """
    if (failure.reason is Reason.INTERNAL_ERROR or not failure.is_final) and folder.outcome.exists():
        return
    folder.tell({"ok": False, "reason": failure.reason, "message": failure.message, "final": failure.is_final})


def _average(job: dict[str, Any], events: Events) -> Outcome:
    spec = JobSpec.read(json.dumps(job["spec"]))
    if os.environ.get("RANK", "0") == "0":
        for warning in not_understood(spec):
            events.add(Warned(message=warning))
    confine_reading(job["roots"])
    with far_files(job.get("far")):
        return _averaged(job, spec, events)


def _averaged(job: dict[str, Any], spec: JobSpec, events: Events) -> Outcome:
    return average(
        job["ckpt_dir"],
        job["val_set"],
        base_model=job["base_model"],
        base=job["base"],
        train_set=job["train_set"],
        curve_earlier=job["curve_earlier"],
        output=job["staging"],
        state_dir=job["state"],
        provenance={"job_id": job["job_id"], "attempt": str(job["attempt"])},
        progress=events.add,
        commit=False,
        **average_arguments(spec),
    )


@contextmanager
def _process_group() -> Iterator[int]:
    """Yields the rank. With several ranks it also opens the process group, and destroys it however the block ends."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    backend = "gloo"
    if torch.cuda.is_available():
        # K x G numbers and the values of examples are in the host's memory, what placements divide is on the GPUs. NCCL
        # connects at the first collective of the latter, so a replicated job never needs it.
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    seconds = float(os.environ.get("LADLE_COLLECTIVE_TIMEOUT_S") or COLLECTIVE_TIMEOUT_S)
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is written and closed. Ending the interpreter while threads of torch run was seen to abort once, which
    # would count as a crash and end the other ranks too.
    os._exit(status)

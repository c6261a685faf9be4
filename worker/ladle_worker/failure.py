"""An error of the engine as a job's reason, with words for people."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass

from ladle_contracts import Reason
from ladle_engine import EngineError
from ladle_engine.distributed.machine_faults import is_machine_fault
from ladle_engine.distributed.out_of_memory import RELIEF, is_out_of_memory
from ladle_engine.storage.atomic_folder import FULL_DISK
from ladle_engine.tasks.faults import describe, place_of_error
from ladle_worker.convert import in_spec_words


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job ends for good."""

    reason: Reason
    message: str


def failure_of(error: Exception) -> Failure | None:
    """None where another attempt may succeed: a rank or a disk was lost.

    An error that nobody foresaw is a mistake in Ladle, which the same input brings about again: it is final too.
    """
    if isinstance(error, EngineError):
        # The engine's codes are all known; a plug-in may raise one of its own.
        known = error.code in {reason.value for reason in Reason}
        return Failure(reason=Reason(error.code) if known else Reason.TASK_FAILED, message=in_spec_words(str(error)))
    if is_out_of_memory(error):
        what = str(error) or type(error).__name__
        message = f"The job must fit into free memory, but this rank ran out of it: {what} {RELIEF}"
        return Failure(reason=Reason.OUT_OF_MEMORY, message=message)
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return Failure(reason=Reason.DISK_FULL, message=str(error))
    if is_machine_fault(error):
        return None
    return Failure(
        reason=Reason.INTERNAL_ERROR,
        message=f"Ladle failed{place_of_error(error, 'ladle_engine')}: {describe(error)}. This is a mistake in Ladle, "
        f"not in your input. Please report it with the end of the log.",
    )


def log_failure(failure: Failure, error: Exception) -> None:
    """On stderr, which is the attempt's log; with the traceback of what a task raised, or of a mistake of Ladle's."""
    if failure.reason is Reason.INTERNAL_ERROR:
        traceback.print_exception(error)
    elif failure.reason is Reason.TASK_FAILED and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    print(f"[{failure.reason}] {failure.message}", file=sys.stderr)

"""An error of the engine as a job's reason, with words for people."""

from __future__ import annotations

import errno
import sys
import traceback
from dataclasses import dataclass

from ladle_contracts import Reason
from ladle_engine import EngineError
from ladle_engine.distributed.machine_faults import comes_of_a_machine, is_machine_fault
from ladle_engine.distributed.out_of_memory import RELIEF, is_out_of_memory
from ladle_engine.storage.atomic_folder import FULL_DISK, LostFolder
from ladle_engine.tasks.faults import describe, place_of_error
from ladle_worker.convert import in_spec_words
from ladle_worker.disk_faults import DiskFault


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an attempt ends."""

    reason: Reason
    message: str
    is_final: bool = True
    """Whether another attempt would only meet it again."""


def failure_of(error: Exception) -> Failure | None:
    """None where a rank was lost: another attempt may succeed, and the log has what there is to say.

    An error that nobody foresaw is a mistake in Ladle, which the same input brings about again: it is final too.
    """
    if isinstance(error, EngineError):
        # The engine's codes are all known; a plug-in may raise one of its own.
        known = error.code in {reason.value for reason in Reason}
        return Failure(
            reason=Reason(error.code) if known else Reason.TASK_FAILED,
            message=in_spec_words(str(error)),
            is_final=not comes_of_a_machine(error),
        )
    if isinstance(error, DiskFault):
        return Failure(reason=error.reason, message=error.message, is_final=error.is_final)
    if is_out_of_memory(error):
        what = str(error) or type(error).__name__
        message = f"The job must fit into free memory, but this rank ran out of it: {what} {RELIEF}"
        return Failure(reason=Reason.OUT_OF_MEMORY, message=message)
    if isinstance(error, OSError) and (failure := _failure_of_a_disk(error)):
        return failure
    if is_machine_fault(error):
        return None
    return Failure(
        reason=Reason.INTERNAL_ERROR,
        message=f"Ladle failed{place_of_error(error, 'ladle_engine')}: {describe(error)}. This is a mistake in Ladle, "
        f"not in your input. Please report it with the end of the log.",
    )


def _failure_of_a_disk(error: OSError) -> Failure | None:
    """None for what may be a mistake: a file that is not there, say."""
    if isinstance(error, LostFolder):
        return Failure(reason=Reason.RESULTS_UNWRITABLE, message=in_spec_words(str(error)), is_final=False)
    if error.errno in FULL_DISK:
        return Failure(reason=Reason.DISK_FULL, message=str(error))
    if error.errno == errno.EROFS:
        return Failure(reason=Reason.RESULTS_UNWRITABLE, message=str(error))
    if is_machine_fault(error):
        return Failure(reason=Reason.CRASHED, message=f"A disk or the network failed: {error}.", is_final=False)
    return None


def log_failure(failure: Failure, error: Exception) -> None:
    """On stderr, which is the attempt's log; with the traceback of what a task raised, or of a mistake of Ladle's."""
    if failure.reason is Reason.INTERNAL_ERROR:
        traceback.print_exception(error)
    elif failure.reason is Reason.TASK_FAILED and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    print(f"[{failure.reason}] {failure.message}", file=sys.stderr)

"""The exceptions of the client.

* LadleError                 Anything that goes wrong here.
  x ConfigurationError       No address is known, or it cannot be used. Nothing was sent.
  x InvalidSpec              The job spec breaks a rule. Found here or by the service. Also a ValueError.
  x ServiceUnreachable       The service cannot be reached, even after retries. Also a ConnectionError.
  x UnexpectedAnswer         Something answered that is not a Ladle service.
  x ServiceError             The service refused: `code` is stable, `detail` is for people.
    + Unauthorized           The token is missing or wrong.
    + NotFound               There is no such job, or it belongs to another token.
    + Conflict               The current state does not allow it: the output exists, the job has finished, ...
    + TooMany                You have too many requests, streams or queued jobs at once, even after retries.
    + Unavailable            The service runs but cannot work (its Redis is down), even after retries.
  x JobError                 The job ended without a result.
    + JobFailed              `reason` is stable, `message` is for people, `log_tail` has the last lines of its log.
    + JobCancelled           Somebody cancelled the job.

Waiting longer than a `timeout` raises Python's own TimeoutError. An option that does not exist raises TypeError.

A message is safe to print: what a terminal would obey in the words of a job, a path or a service is escaped in it. The
attributes have the original texts.

In messages an argument is written as `url=` and a field of the job spec by its path, as in `checkpoints.last`. The
command relies on it to show flags instead.
"""

from __future__ import annotations

from typing import Any

from ladle_contracts import ErrorCode, JobRecord, Problem, Reason
from ladle_contracts.errors import SPEC_CODES
from ladle_contracts.safe_text import one_line


class LadleError(Exception):
    """Anything that goes wrong in the client."""


class ConfigurationError(LadleError):
    """No address is known, or it cannot be used."""


class InvalidSpec(LadleError, ValueError):
    """The job spec breaks a rule: `errors` has one `{"field": ..., "message": ...}` for each."""

    def __init__(
        self, message: str, *, code: str = ErrorCode.INVALID_SPEC, errors: tuple[dict[str, Any], ...] = ()
    ) -> None:
        super().__init__(message)
        self.code = str(code)
        self.errors = errors


class ServiceUnreachable(LadleError, ConnectionError):
    """The service cannot be reached."""


class UnexpectedAnswer(LadleError):
    """Something answered that is not a Ladle service."""


class ServiceError(LadleError):
    """The service refused."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(one_line(f"{problem.detail} [{problem.code}]"))
        self._problem = problem
        self.code = str(problem.code)
        self.status = problem.status
        self.detail = problem.detail
        self.errors = problem.errors

    def __reduce__(self) -> tuple[type[ServiceError], tuple[Problem]]:
        """So that it can be pickled, as a process pool does."""
        return type(self), (self._problem,)


class Unauthorized(ServiceError):
    """The token is missing or wrong."""


class NotFound(ServiceError):
    """There is no such job, or it belongs to another token."""


class Conflict(ServiceError):
    """The current state does not allow it."""


class TooMany(ServiceError):
    """You have too many requests, streams or queued jobs at once."""


class Unavailable(ServiceError):
    """The service runs but cannot work at the moment."""


class JobError(LadleError):
    """The job ended without a result."""

    def __init__(self, record: JobRecord) -> None:
        super().__init__(self._describe(record))
        self.record = record
        self.job_id = record.id
        self.reason: Reason | None = record.reason
        self.message = record.message or ""
        self.log_tail = record.log_tail

    @staticmethod
    def _describe(record: JobRecord) -> str:
        return one_line(f"Job {record.id} is {record.state}.")

    def __reduce__(self) -> tuple[type[JobError], tuple[JobRecord]]:
        """So that it can be pickled, as a process pool does."""
        return type(self), (self.record,)


class JobFailed(JobError):
    """The job failed. The text has the reason and the end of the log."""

    @staticmethod
    def _describe(record: JobRecord) -> str:
        lines = [f"Job {record.id} failed: {record.message or 'there is no message'} [{record.reason or 'unknown'}]"]
        tail = [line for line in record.log_tail if not record.message or record.message not in line]
        if tail:
            lines += ["The log ends with:", *(f"    {line.expandtabs()}" for line in tail)]
        return "\n".join(map(one_line, lines))


class JobCancelled(JobError):
    """Somebody cancelled the job."""

    @staticmethod
    def _describe(record: JobRecord) -> str:
        return one_line(f"Job {record.id} was cancelled.")


_BY_STATUS: dict[int, type[ServiceError]] = {
    401: Unauthorized,
    404: NotFound,
    409: Conflict,
    429: TooMany,
    503: Unavailable,
}


def error_of(problem: Problem) -> LadleError:
    """The exception for a problem that the service reported."""
    if problem.code in SPEC_CODES:
        return InvalidSpec(describe(problem), code=problem.code, errors=problem.errors)
    return _BY_STATUS.get(problem.status, ServiceError)(problem)


def describe(problem: Problem) -> str:
    """The detail of a problem, and a line for each field that the detail does not mention."""
    fields = [
        f"  `{error.get('field')}` {error.get('message')}."
        for error in problem.errors
        if str(error.get("message")) not in problem.detail
    ]
    return "\n".join(map(one_line, [f"{problem.detail} [{problem.code}]", *fields]))

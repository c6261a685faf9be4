"""The exceptions of the client.

* LadleError                 Anything that goes wrong here.
  x ConfigurationError       No address, or one that cannot be used. Nothing was sent.
  x InvalidSpec              The job's spec breaks a rule, found here or by the service. Also a ValueError.
  x ServiceUnreachable       Nobody answers at the address, retries included. Also a ConnectionError.
  x UnexpectedAnswer         Somebody answers, but not as Ladle would.
  x ServiceError             The service refused: `code` is stable, `detail` is for people.
    + Unauthorized           The token is missing or wrong.
    + NotFound               No such job, or it belongs to another token.
    + Conflict               What is asked does not fit the present state: the output exists, the job has finished, ...
    + Unavailable            The service runs, but cannot work now (its Redis is down), retries included.
  x JobError                 The job ended without a result.
    + JobFailed              `reason` is stable, `message` is for people, `log_tail` is the last lines of its log.
    + JobCancelled           Somebody cancelled it.

Waiting past a `timeout` raises Python's own TimeoutError; an option that does not exist raises TypeError.
"""

from __future__ import annotations

from typing import Any

from ladle_contracts import ErrorCode, JobRecord, Problem, Reason
from ladle_contracts.errors import SPEC_CODES


class LadleError(Exception):
    """Anything that goes wrong in the client."""


class ConfigurationError(LadleError):
    """No address, or one that cannot be used."""


class InvalidSpec(LadleError, ValueError):
    """The job's spec breaks a rule: `errors` has one `{"field": ..., "message": ...}` each."""

    def __init__(
        self, message: str, *, code: str = ErrorCode.INVALID_SPEC, errors: tuple[dict[str, Any], ...] = ()
    ) -> None:
        super().__init__(message)
        self.code = str(code)
        self.errors = errors


class ServiceUnreachable(LadleError, ConnectionError):
    """Nobody answers at the address."""


class UnexpectedAnswer(LadleError):
    """Somebody answers, but not as Ladle would."""


class ServiceError(LadleError):
    """The service refused."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.detail} [{problem.code}]")
        self._problem = problem
        self.code = str(problem.code)
        self.status = problem.status
        self.detail = problem.detail
        self.errors = problem.errors

    def __reduce__(self) -> tuple[type[ServiceError], tuple[Problem]]:
        """So that it can leave a process pool."""
        return type(self), (self._problem,)


class Unauthorized(ServiceError):
    """The token is missing or wrong."""


class NotFound(ServiceError):
    """No such job, or it belongs to another token."""


class Conflict(ServiceError):
    """What is asked does not fit the present state."""


class Unavailable(ServiceError):
    """The service runs, but cannot work now."""


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
        return f"job {record.id} is {record.state}"

    def __reduce__(self) -> tuple[type[JobError], tuple[JobRecord]]:
        """So that it can leave a process pool."""
        return type(self), (self.record,)


class JobFailed(JobError):
    """The job failed; the text has the reason and the log's tail."""

    @staticmethod
    def _describe(record: JobRecord) -> str:
        lines = [f"job {record.id} failed: {record.message or 'no message'} [{record.reason or 'unknown'}]"]
        tail = [line for line in record.log_tail if not record.message or record.message not in line]
        if tail:
            lines += ["the log ends with:", *(f"    {line}" for line in tail)]
        return "\n".join(lines)


class JobCancelled(JobError):
    """Somebody cancelled the job."""

    @staticmethod
    def _describe(record: JobRecord) -> str:
        return f"job {record.id} was cancelled"


_BY_STATUS: dict[int, type[ServiceError]] = {401: Unauthorized, 404: NotFound, 409: Conflict, 503: Unavailable}


def error_of(problem: Problem) -> LadleError:
    """The exception for a problem that the service sent."""
    if problem.code in SPEC_CODES:
        return InvalidSpec(describe(problem), code=problem.code, errors=problem.errors)
    return _BY_STATUS.get(problem.status, ServiceError)(problem)


def describe(problem: Problem) -> str:
    """The problem's detail, with a line for each field that it does not tell of already."""
    fields = [
        f"  {error.get('field')}: {error.get('message')}"
        for error in problem.errors
        if str(error.get("message")) not in problem.detail
    ]
    return "\n".join([f"{problem.detail} [{problem.code}]", *fields])

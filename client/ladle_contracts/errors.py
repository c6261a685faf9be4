"""Error codes. They are stable: a program may compare them, a message is for people."""

from __future__ import annotations

from enum import StrEnum

from pydantic import JsonValue

from ladle_contracts._model import Contract


class Reason(StrEnum):
    """Why a job did not succeed. The value stands in `JobRecord.reason` and is what the engine's errors carry."""

    # Checkpoints
    NO_CHECKPOINTS = "no-checkpoints"
    """The folder is missing, empty or holds nothing that matches."""
    TOO_FEW_CHECKPOINTS = "too-few-checkpoints"
    IDENTICAL_CHECKPOINTS = "identical-checkpoints"
    CORRUPT_CHECKPOINT = "corrupt-checkpoint"
    UNSAFE_CHECKPOINT = "unsafe-checkpoint"
    """A pickle that asks for more than tensors. It was not run."""
    MISMATCHED_CHECKPOINTS = "mismatched-checkpoints"
    """Names, shapes or kinds differ between two checkpoints."""
    NON_FINITE_WEIGHTS = "non-finite-weights"
    AMBIGUOUS_ORDER = "ambiguous-order"
    """The names allow two orders, and the job needs one: choose with `order`."""
    UNREADABLE_INPUT = "unreadable-input"
    """A file of the checkpoints is gone or cannot be opened."""
    # Task and data
    UNKNOWN_TASK = "unknown-task"
    """No such task, or none could be inferred."""
    INVALID_TASK_OPTIONS = "invalid-task-options"
    MODEL_MISMATCH = "model-mismatch"
    """The task's model does not take these checkpoints."""
    INVALID_DATA = "invalid-data"
    """The data set cannot be read, or belongs to another task."""
    UNKNOWN_CLASSES = "unknown-classes"
    EMPTY_DATA = "empty-data"
    TOO_LITTLE_DATA = "too-little-data"
    UNKNOWN_METRIC = "unknown-metric"
    # Method
    UNKNOWN_METHOD = "unknown-method"
    INVALID_METHOD_OPTIONS = "invalid-method-options"
    NON_FINITE_LOSS = "non-finite-loss"
    # Resources
    PATH_NOT_ALLOWED = "path-not-allowed"
    OUTPUT_EXISTS = "output-exists"
    RESULTS_UNWRITABLE = "results-unwritable"
    """The result's folder cannot be made or written."""
    DISK_FULL = "disk-full"
    OUT_OF_MEMORY = "out-of-memory"
    INVALID_PLACEMENT = "invalid-placement"
    """The placement or precision cannot work with these ranks, this model or this device."""
    # The job's life
    CRASHED = "crashed"
    """The ranks ended without saying why; the log's tail may."""
    NODE_LOST = "node-lost"
    """A node stopped renewing its lease."""
    CANCELLED = "cancelled"


class ErrorCode(StrEnum):
    """The `code` of a problem+json answer."""

    INVALID_REQUEST = "invalid-request"
    INVALID_SPEC = "invalid-spec"
    PATH_NOT_ALLOWED = "path-not-allowed"
    UNKNOWN_METHOD = "unknown-method"
    UNKNOWN_TASK = "unknown-task"
    UNKNOWN_OPTION = "unknown-option"
    OUTPUT_EXISTS = "output-exists"
    NOT_ENOUGH_NODES = "not-enough-nodes"
    """More nodes, or more ranks on one, than were ever registered."""
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    """A web page of another site asks a service that has no tokens."""
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    NOT_FINISHED = "not-finished"
    """The call needs a finished job."""
    NO_RESULT = "no-result"
    """The job ended without a result."""
    ALREADY_FINISHED = "already-finished"
    """A finished job cannot be cancelled."""
    IDEMPOTENCY_CONFLICT = "idempotency-conflict"
    """The key was used before with another body."""
    BODY_TOO_LARGE = "body-too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    UNAVAILABLE = "unavailable"
    """Redis does not answer; try again."""
    INTERNAL = "internal"


PROBLEM_TITLES: dict[ErrorCode, tuple[int, str]] = {
    ErrorCode.INVALID_REQUEST: (422, "The request is not valid."),
    ErrorCode.INVALID_SPEC: (422, "The job spec is not valid."),
    ErrorCode.PATH_NOT_ALLOWED: (422, "A path is missing or outside the allowed roots."),
    ErrorCode.UNKNOWN_METHOD: (422, "No worker has this method."),
    ErrorCode.UNKNOWN_TASK: (422, "No worker has this task."),
    ErrorCode.UNKNOWN_OPTION: (422, "The method or task has no such option."),
    ErrorCode.OUTPUT_EXISTS: (409, "The output folder exists."),
    ErrorCode.NOT_ENOUGH_NODES: (422, "The cluster is too small for this job."),
    ErrorCode.UNAUTHORIZED: (401, "A valid bearer token is needed."),
    ErrorCode.FORBIDDEN: (403, "This service takes no requests from other sites."),
    ErrorCode.NOT_FOUND: (404, "There is no such thing here."),
    ErrorCode.METHOD_NOT_ALLOWED: (405, "This address does not take that HTTP method."),
    ErrorCode.NOT_FINISHED: (409, "The job has not finished."),
    ErrorCode.NO_RESULT: (404, "The job ended without a result."),
    ErrorCode.ALREADY_FINISHED: (409, "The job has finished."),
    ErrorCode.IDEMPOTENCY_CONFLICT: (409, "The idempotency key was used with another body."),
    ErrorCode.BODY_TOO_LARGE: (413, "The request body is too large."),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: (415, "The body must be JSON."),
    ErrorCode.UNAVAILABLE: (503, "Ladle's store does not answer."),
    ErrorCode.INTERNAL: (500, "Ladle failed."),
}
"""Code -> HTTP status and title."""


class Problem(Contract):
    """An RFC 9457 problem, sent as `application/problem+json`."""

    type: str = "about:blank"
    title: str
    status: int
    code: ErrorCode
    detail: str
    instance: str | None = None
    errors: tuple[dict[str, JsonValue], ...] = ()
    """For an invalid body: one `{"field": ..., "message": ...}` each, with the wrong value cut short."""

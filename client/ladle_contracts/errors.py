"""Error codes. They are stable, so programs may compare them. Messages are for people."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, JsonValue

from ladle_contracts._model import Contract, OpenEnum


class Reason(OpenEnum):
    """Why a job did not succeed: the value of `JobRecord.reason`, and the `code` of the engine's errors."""

    # Checkpoints
    NO_CHECKPOINTS = "no-checkpoints"
    """The folder is missing, is empty or has no checkpoint that matches."""
    TOO_FEW_CHECKPOINTS = "too-few-checkpoints"
    IDENTICAL_CHECKPOINTS = "identical-checkpoints"
    CORRUPT_CHECKPOINT = "corrupt-checkpoint"
    UNSAFE_CHECKPOINT = "unsafe-checkpoint"
    """A pickle with more in it than tensors. It was not run."""
    MISMATCHED_CHECKPOINTS = "mismatched-checkpoints"
    """Names, shapes or types differ between two checkpoints."""
    INVALID_CHECKPOINT_OPTIONS = "invalid-checkpoint-options"
    """`like`, `skip_tensors` or `take_from` does not fit what the folder holds."""
    UNSUPPORTED_TENSORS = "unsupported-tensors"
    """A tensor of a kind that has no average, such as a sparse or a quantised one."""
    NON_FINITE_WEIGHTS = "non-finite-weights"
    """NaN or infinity, or a result that its type cannot hold."""
    AMBIGUOUS_ORDER = "ambiguous-order"
    """The names allow two orders, and the job needs one: choose with `order`."""
    UNREADABLE_INPUT = "unreadable-input"
    """A file of the checkpoints is gone or cannot be opened."""
    INPUTS_CHANGED = "inputs-changed"
    """A checkpoint, a data set or the config changed or vanished while the job ran, or before its next attempt."""
    # Task and data
    UNKNOWN_TASK = "unknown-task"
    """There is no such task, or it could not be inferred."""
    INVALID_TASK_OPTIONS = "invalid-task-options"
    TASK_FAILED = "task-failed"
    """The task's own code raised an error or broke the rules of a task; the message names file and line."""
    MODEL_MISMATCH = "model-mismatch"
    """These checkpoints do not fit the task's model."""
    INVALID_DATA = "invalid-data"
    """The data set cannot be read, or belongs to another task."""
    UNKNOWN_CLASSES = "unknown-classes"
    EMPTY_DATA = "empty-data"
    TOO_LITTLE_DATA = "too-little-data"
    UNKNOWN_METRIC = "unknown-metric"
    MISSING_LIBRARY = "missing-library"
    """A library that the task needs is not installed beside the worker; the message has the line that installs it."""
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
    """The placement or precision does not work with these ranks, this model or this device."""
    # The job's life
    CRASHED = "crashed"
    """The ranks ended without saying why. The end of the log may tell."""
    STALLED = "stalled"
    """A stage made no progress for the worker's limit, `LADLE_STALL_S`."""
    TIMED_OUT = "timed-out"
    """It has run as long as `resources.timeout_s` allows, all attempts together."""
    INTERNAL_ERROR = "internal-error"
    """A mistake in Ladle. The log has the traceback."""
    VERSION_MISMATCH = "version-mismatch"
    """Service and worker are of different versions, and the worker does not understand the job; or the nodes of a job
    have different ones."""
    NODE_LOST = "node-lost"
    """A node stopped renewing its lease, did not answer, or was not ready in time."""
    NODE_UNFIT = "node-unfit"
    """A node cannot run jobs: a GPU of it is broken or taken, or its ranks do not reach each other."""
    NODES_CANNOT_MEET = "nodes-cannot-meet"
    """The nodes of a job do not reach each other: a wrong address, or no free port."""
    INPUTS_DIFFER = "inputs-differ"
    """The nodes of a job do not see the same checkpoints or data, or one of them does not see them at all."""
    LAUNCH_FAILED = "launch-failed"
    """Slurm or Kubernetes refuses the job, or cannot start it; the message has its words."""
    PREEMPTED = "preempted"
    """Slurm or Kubernetes has taken the machines back, for another job or because the time there was over."""
    CANCELLED = "cancelled"


WrittenReason = Annotated[Reason, BeforeValidator(Reason.read)]
"""A reason that another process has written."""


class ErrorCode(OpenEnum):
    """The `code` of a problem+json answer."""

    INVALID_REQUEST = "invalid-request"
    INVALID_SPEC = "invalid-spec"
    PATH_NOT_ALLOWED = "path-not-allowed"
    UNKNOWN_METHOD = "unknown-method"
    UNKNOWN_TASK = "unknown-task"
    UNKNOWN_OPTION = "unknown-option"
    OUTPUT_EXISTS = "output-exists"
    NOT_ENOUGH_NODES = "not-enough-nodes"
    """The job needs more nodes, or more ranks per node, than any that are known."""
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    """The token's scope does not allow it, or a web page of another site sends requests to a service without tokens."""
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    NOT_FINISHED = "not-finished"
    """The request needs a job that has ended."""
    NO_RESULT = "no-result"
    """The job ended without a result."""
    ALREADY_FINISHED = "already-finished"
    """A job that has ended cannot be cancelled."""
    IDEMPOTENCY_CONFLICT = "idempotency-conflict"
    """The key was used with another body before."""
    BODY_TOO_LARGE = "body-too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    REQUEST_TIMEOUT = "request-timeout"
    """The request did not arrive completely in time."""
    TOO_MANY_REQUESTS = "too-many-requests"
    """The owner sends requests faster than the service allows. Try again."""
    TOO_MANY_STREAMS = "too-many-streams"
    """The owner follows as many jobs as the service allows at once."""
    TOO_MANY_JOBS = "too-many-jobs"
    """The owner has as many jobs in the queue as the service allows."""
    OVERLOADED = "overloaded"
    """The service has as many connections as it may have. Try again."""
    UNAVAILABLE = "unavailable"
    """Redis does not answer, or refuses writes. Try again."""
    NO_NODE = "no-node"
    """No worker is there that could do it. Try again when one is."""
    NO_ANSWER = "no-answer"
    """No worker has done it in time, or the one that tried has failed."""
    INTERNAL = "internal"


SPEC_CODES = (
    ErrorCode.INVALID_SPEC,
    ErrorCode.PATH_NOT_ALLOWED,
    ErrorCode.UNKNOWN_METHOD,
    ErrorCode.UNKNOWN_TASK,
    ErrorCode.UNKNOWN_OPTION,
    ErrorCode.NOT_ENOUGH_NODES,
)
"""What may be wrong with a job spec."""

PROBLEM_TITLES: dict[ErrorCode, tuple[int, str]] = {
    ErrorCode.INVALID_REQUEST: (422, "The request is not valid."),
    ErrorCode.INVALID_SPEC: (422, "The job spec is not valid."),
    ErrorCode.PATH_NOT_ALLOWED: (422, "A path does not exist or is outside the allowed folders."),
    ErrorCode.UNKNOWN_METHOD: (422, "No worker has this method."),
    ErrorCode.UNKNOWN_TASK: (422, "No worker has this task."),
    ErrorCode.UNKNOWN_OPTION: (422, "The method or task has no such option."),
    ErrorCode.OUTPUT_EXISTS: (409, "The output folder already exists."),
    ErrorCode.NOT_ENOUGH_NODES: (422, "The cluster is too small for this job."),
    ErrorCode.UNAUTHORIZED: (401, "A valid bearer token is required."),
    ErrorCode.FORBIDDEN: (403, "The request is not allowed."),
    ErrorCode.NOT_FOUND: (404, "There is nothing here by that name."),
    ErrorCode.METHOD_NOT_ALLOWED: (405, "This address does not support that HTTP method."),
    ErrorCode.NOT_FINISHED: (409, "The job has not ended yet."),
    ErrorCode.NO_RESULT: (404, "The job ended without a result."),
    ErrorCode.ALREADY_FINISHED: (409, "The job has already ended."),
    ErrorCode.IDEMPOTENCY_CONFLICT: (409, "The idempotency key was used with another body."),
    ErrorCode.BODY_TOO_LARGE: (413, "The request body is too large."),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: (415, "The body must be JSON."),
    ErrorCode.REQUEST_TIMEOUT: (408, "The request took too long to arrive."),
    ErrorCode.TOO_MANY_REQUESTS: (429, "You send too many requests."),
    ErrorCode.TOO_MANY_STREAMS: (429, "You follow too many jobs at once."),
    ErrorCode.TOO_MANY_JOBS: (429, "You have too many jobs in the queue."),
    ErrorCode.OVERLOADED: (503, "The service has too many connections."),
    ErrorCode.UNAVAILABLE: (503, "Redis cannot be used at the moment."),
    ErrorCode.NO_NODE: (503, "No worker is there."),
    ErrorCode.NO_ANSWER: (504, "No worker has answered."),
    ErrorCode.INTERNAL: (500, "Ladle has made a mistake."),
}
"""Code -> HTTP status and title."""


class Problem(Contract):
    """An RFC 9457 problem, sent as `application/problem+json`."""

    type: str = "about:blank"
    title: str
    status: int
    code: Annotated[ErrorCode, BeforeValidator(ErrorCode.read)]
    detail: str
    instance: str | None = None
    request_id: str | None = None
    """What the answer's `X-Request-ID` says, and the service's log: for whoever asks the operator about it."""
    errors: tuple[dict[str, JsonValue], ...] = ()
    """For an invalid body: one `{"field": ..., "message": ...}` for each mistake. A long value is cut short."""

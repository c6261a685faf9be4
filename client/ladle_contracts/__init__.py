"""What crosses a process boundary: job spec and record, events, results, error codes, names of queues and keys.

It is the only package that every other package may import. It depends only on pydantic.
"""

from ladle_contracts.errors import PROBLEM_TITLES, ErrorCode, Problem, Reason
from ladle_contracts.events import (
    CandidateScored,
    CheckpointsFound,
    Event,
    EventBody,
    MemoryPlanned,
    StageStarted,
    StateChanged,
    StepDone,
    UnknownEvent,
    Warned,
)
from ladle_contracts.inspection import Inspection, InspectRequest
from ladle_contracts.job_record import (
    TERMINAL_STATES,
    CandidateResult,
    JobPage,
    JobRecord,
    JobResult,
    JobState,
    Progress,
    SetResult,
)
from ladle_contracts.job_spec import (
    Adapters,
    CheckpointFilter,
    CurveChoice,
    JobSpec,
    MethodChoice,
    Output,
    Resources,
    TaskChoice,
    TrainSet,
)
from ladle_contracts.nodes import Catalog, MethodInfo, NodeRecord, OptionInfo, TaskInfo, Vetting

__all__ = [
    "PROBLEM_TITLES",
    "TERMINAL_STATES",
    "Adapters",
    "CandidateResult",
    "CandidateScored",
    "Catalog",
    "CheckpointFilter",
    "CheckpointsFound",
    "CurveChoice",
    "ErrorCode",
    "Event",
    "EventBody",
    "InspectRequest",
    "Inspection",
    "JobPage",
    "JobRecord",
    "JobResult",
    "JobSpec",
    "JobState",
    "MemoryPlanned",
    "MethodChoice",
    "MethodInfo",
    "NodeRecord",
    "OptionInfo",
    "Output",
    "Problem",
    "Progress",
    "Reason",
    "Resources",
    "SetResult",
    "StageStarted",
    "StateChanged",
    "StepDone",
    "TaskChoice",
    "TaskInfo",
    "TrainSet",
    "UnknownEvent",
    "Vetting",
    "Warned",
]

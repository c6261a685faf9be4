"""The answers of the REST API besides jobs, results and problems.

Lists are sent inside an object, so that a field can be added beside them without breaking a client.
"""

from __future__ import annotations

from ladle_contracts._model import Contract
from ladle_contracts.events import Event
from ladle_contracts.nodes import MethodInfo, NodeRecord, TaskInfo

API_VERSION = "v1"

IDEMPOTENCY_HEADER = "Idempotency-Key"
LAST_EVENT_HEADER = "Last-Event-ID"


class EventPage(Contract):
    """Events of one job, oldest first."""

    events: tuple[Event, ...]
    next_after: str | None = None
    """Pass it as `after` to read on. Absent when there were no more events."""


class LogTail(Contract):
    """The last lines of a job's log."""

    lines: tuple[str, ...]


class NodeList(Contract):
    """All nodes that have registered and were not gone for long."""

    nodes: tuple[NodeRecord, ...]


class NodeChange(Contract):
    """A node after an operator said whether it takes jobs."""

    node: NodeRecord
    changed: bool
    """False if it was so before."""


class MethodList(Contract):
    """The methods that the workers offer."""

    methods: tuple[MethodInfo, ...]


class TaskList(Contract):
    """The tasks that the workers offer, including plug-ins."""

    tasks: tuple[TaskInfo, ...]


class WebhookSecret(Contract):
    """What signs the webhooks of one owner's jobs."""

    secret: str
    """As Standard Webhooks writes it: `whsec_` and base64."""


class Version(Contract):
    """The version of the service."""

    version: str
    api: str = API_VERSION


class Health(Contract):
    """`alive`: the process runs. `ready`: Redis answers and takes writes as well."""

    status: str

"""`submit`, and the two clients: one to call, one to await."""

from __future__ import annotations

import atexit
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from ladle import _calls
from ladle._address import Address, find_address
from ladle._job import AsyncJob, Job
from ladle._options import SpecOptions
from ladle._spec import CkptDir, PathLike, ValSet, build_inspection, build_spec
from ladle._transport import AsyncTransport, SyncTransport
from ladle_contracts import Inspection, JobRecord, JobState, MethodInfo, NodeRecord, TaskInfo
from ladle_contracts.api import NodeChange, Version

if TYPE_CHECKING:
    import httpx2

    from ladle_contracts import Adapters, CheckpointFilter, MethodChoice, TaskChoice

TIMEOUT_S = 30.0
PATIENCE_S = 10.0


class Client:
    """A connection to one Ladle service. Threads may share it.

    Without `url` and `token` it uses LADLE_URL and LADLE_TOKEN, or else the stack that `ladle up` started here.
    `timeout` limits how long it waits for one answer, and `patience` how long it tries again while the service cannot
    be reached. Both are in seconds.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = TIMEOUT_S,
        patience: float = PATIENCE_S,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.address = find_address(url, token)
        self._transport = SyncTransport(self.address, timeout_s=timeout, patience_s=patience, http=transport)

    def submit(self, ckpt_dir: CkptDir, val_set: ValSet, **options: Unpack[SpecOptions]) -> Job:
        """Submits one job; see `ladle.submit`."""
        spec = build_spec(ckpt_dir, val_set, options)
        record = self._transport.send(_calls.submit_job(spec, _new_key()))
        return Job(self._transport, record.id, record)

    def job(self, job_id: str) -> Job:
        """A handle for a job that exists. It does not ask the service yet."""
        return Job(self._transport, job_id)

    def jobs(
        self, *, state: JobState | str | None = None, labels: Mapping[str, str] | None = None
    ) -> Iterator[JobRecord]:
        """All jobs, newest first. Pages are fetched as they are needed."""
        cursor = None
        while True:
            page = self._transport.send(_calls.list_jobs(state=state, labels=labels, cursor=cursor))
            yield from page.jobs
            cursor = page.next_cursor
            if cursor is None:
                return

    def nodes(self) -> tuple[NodeRecord, ...]:
        """All worker machines that have registered and were not gone for long."""
        return self._transport.send(_calls.get_nodes()).nodes

    def cordon(self, node_id: str, *, reason: str | None = None) -> NodeChange:
        """The node takes no more jobs; the one that it runs goes on. Needs a token of scope `admin`."""
        return self._transport.send(_calls.change_node(node_id, "cordon", reason=reason))

    def drain(self, node_id: str, *, now: bool = False, reason: str | None = None) -> NodeChange:
        """The node is to become empty. With `now` it hands its job back, and another node goes on with it."""
        return self._transport.send(_calls.change_node(node_id, "drain", reason=reason, now=now))

    def uncordon(self, node_id: str) -> NodeChange:
        """The node takes jobs again, and its failures are forgotten."""
        return self._transport.send(_calls.change_node(node_id, "uncordon"))

    def inspect(
        self,
        ckpt_dir: CkptDir,
        *,
        checkpoints: str | Mapping[str, Any] | CheckpointFilter | None = None,
        task: str | Mapping[str, Any] | TaskChoice | None = None,
        adapters: str | Mapping[str, Any] | Adapters | None = None,
        method: str | Mapping[str, Any] | MethodChoice | None = None,
        base: PathLike | None = None,
        forecast: bool = False,
    ) -> Inspection:
        """What is in a folder of checkpoints, and what a job with these options would do. A worker opens headers only.

        What is wrong with a checkpoint is said in its row, and raises nothing.
        """
        options = {"checkpoints": checkpoints, "task": task, "adapters": adapters, "method": method}
        request = build_inspection(ckpt_dir, {**options, "base": base, "forecast": forecast or None})
        return self._transport.send(_calls.inspect_folder(request))

    def methods(self) -> tuple[MethodInfo, ...]:
        """The ways to choose coefficients."""
        return self._transport.send(_calls.get_methods()).methods

    def tasks(self) -> tuple[TaskInfo, ...]:
        """The tasks, plug-ins included."""
        return self._transport.send(_calls.get_tasks()).tasks

    def webhook_secret(self) -> str:
        """With what receivers check the webhooks of this token's jobs: `whsec_...`, as Standard Webhooks has it."""
        return self._transport.send(_calls.get_webhook_secret()).secret

    def version(self) -> Version:
        """The version of the service."""
        return self._transport.send(_calls.get_version())

    def close(self) -> None:
        """Closes the connections. The jobs of this client can no longer be used."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """`Client` for asyncio: its methods are awaited."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = TIMEOUT_S,
        patience: float = PATIENCE_S,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.address = find_address(url, token)
        self._transport = AsyncTransport(self.address, timeout_s=timeout, patience_s=patience, http=transport)

    async def submit(self, ckpt_dir: CkptDir, val_set: ValSet, **options: Unpack[SpecOptions]) -> AsyncJob:
        """Submits one job; see `ladle.submit`."""
        spec = build_spec(ckpt_dir, val_set, options)
        record = await self._transport.send(_calls.submit_job(spec, _new_key()))
        return AsyncJob(self._transport, record.id, record)

    def job(self, job_id: str) -> AsyncJob:
        """A handle for a job that exists. It does not ask the service yet."""
        return AsyncJob(self._transport, job_id)

    async def jobs(
        self, *, state: JobState | str | None = None, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[JobRecord]:
        """All jobs, newest first. Pages are fetched as they are needed."""
        cursor = None
        while True:
            page = await self._transport.send(_calls.list_jobs(state=state, labels=labels, cursor=cursor))
            for record in page.jobs:
                yield record
            cursor = page.next_cursor
            if cursor is None:
                return

    async def nodes(self) -> tuple[NodeRecord, ...]:
        """All worker machines that have registered and were not gone for long."""
        return (await self._transport.send(_calls.get_nodes())).nodes

    async def cordon(self, node_id: str, *, reason: str | None = None) -> NodeChange:
        """See `Client.cordon`."""
        return await self._transport.send(_calls.change_node(node_id, "cordon", reason=reason))

    async def drain(self, node_id: str, *, now: bool = False, reason: str | None = None) -> NodeChange:
        """See `Client.drain`."""
        return await self._transport.send(_calls.change_node(node_id, "drain", reason=reason, now=now))

    async def uncordon(self, node_id: str) -> NodeChange:
        """See `Client.uncordon`."""
        return await self._transport.send(_calls.change_node(node_id, "uncordon"))

    async def inspect(
        self,
        ckpt_dir: CkptDir,
        *,
        checkpoints: str | Mapping[str, Any] | CheckpointFilter | None = None,
        task: str | Mapping[str, Any] | TaskChoice | None = None,
        adapters: str | Mapping[str, Any] | Adapters | None = None,
        method: str | Mapping[str, Any] | MethodChoice | None = None,
        base: PathLike | None = None,
        forecast: bool = False,
    ) -> Inspection:
        """See `Client.inspect`."""
        options = {"checkpoints": checkpoints, "task": task, "adapters": adapters, "method": method}
        request = build_inspection(ckpt_dir, {**options, "base": base, "forecast": forecast or None})
        return await self._transport.send(_calls.inspect_folder(request))

    async def methods(self) -> tuple[MethodInfo, ...]:
        """The ways to choose coefficients."""
        return (await self._transport.send(_calls.get_methods())).methods

    async def tasks(self) -> tuple[TaskInfo, ...]:
        """The tasks, plug-ins included."""
        return (await self._transport.send(_calls.get_tasks())).tasks

    async def webhook_secret(self) -> str:
        """With what receivers check the webhooks of this token's jobs: `whsec_...`, as Standard Webhooks has it."""
        return (await self._transport.send(_calls.get_webhook_secret())).secret

    async def version(self) -> Version:
        """The version of the service."""
        return await self._transport.send(_calls.get_version())

    async def close(self) -> None:
        """Closes the connections. The jobs of this client can no longer be used."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def submit(
    ckpt_dir: CkptDir,
    val_set: ValSet,
    *,
    url: str | None = None,
    token: str | None = None,
    **options: Unpack[SpecOptions],
) -> Job:
    """Submits a folder of checkpoints and a validation set, and returns the job at once.

    The options are the parts of `ladle_contracts.JobSpec`. Relative paths are taken from the current folder.

        from ladle import submit
        print(submit("checkpoints", "val").result().folder)

    Raises:
        ConfigurationError: no service is known.
        InvalidSpec: a value or a path is wrong.
        TypeError: there is no such option.
        ServiceUnreachable: the service cannot be reached.
    """
    return _shared_client(find_address(url, token)).submit(ckpt_dir, val_set, **options)


@cache
def _shared_client(address: Address) -> Client:
    """One client per address. It stays open because a job needs its connections for as long as somebody holds it."""
    client = Client(str(address), address.token)
    atexit.register(client.close)
    return client


def _new_key() -> str:
    """One key per submit: however often the request is sent, it makes one job."""
    return uuid.uuid4().hex

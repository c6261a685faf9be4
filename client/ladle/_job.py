"""A handle for one job, like `concurrent.futures.Future`. `AsyncJob` is the same for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

from ladle import _calls
from ladle._errors import Conflict, JobError, ServiceUnreachable, Unavailable
from ladle._follow import Follower, Waiter, error_of_job, result_of_job
from ladle._transport import AsyncTransport, SyncTransport
from ladle_contracts import TERMINAL_STATES, ErrorCode, Event, JobRecord, JobResult, JobState

LOG_LINES = 100

_RUNNING = frozenset({JobState.RUNNING, JobState.FINALIZING, JobState.CANCELLING})
_GIVEN_UP = frozenset({JobState.CANCELLING, JobState.CANCELLED})


class _Handle:
    """What both kinds of handle know without asking the service."""

    def __init__(self, job_id: str, record: JobRecord | None = None) -> None:
        self.id = job_id
        self._record = record

    @property
    def _final(self) -> JobRecord | None:
        """The record of a job that has ended. It never changes again."""
        return self._record if self._record is not None and self._record.state in TERMINAL_STATES else None

    def __repr__(self) -> str:
        state = f", {self._record.state} when last seen" if self._record is not None else ""
        return f"<{type(self).__name__} {self.id}{state}>"


class Job(_Handle):
    """One job. Every method asks the service until the job has ended. Then the record is remembered."""

    def __init__(self, transport: SyncTransport, job_id: str, record: JobRecord | None = None) -> None:
        super().__init__(job_id, record)
        self._transport = transport

    def status(self) -> JobRecord:
        """The whole record: state, progress, result."""
        return self._look()

    def done(self) -> bool:
        """Whether the job has ended: succeeded, failed or cancelled."""
        return self._look().state in TERMINAL_STATES

    def running(self) -> bool:
        """Whether its ranks are running."""
        return self._look().state in _RUNNING

    def cancelled(self) -> bool:
        """Whether the job was cancelled."""
        return self._look().state is JobState.CANCELLED

    def wait(self, timeout: float | None = None) -> JobRecord:
        """Waits for the end and returns the record. Raises TimeoutError after `timeout` seconds; the job continues."""
        waiter = Waiter(self.id, timeout)
        while True:
            try:
                record = self._look(patience_s=waiter.patience_s)
            except (ServiceUnreachable, Unavailable) as error:
                if waiter.is_over:
                    raise waiter.timeout() from error
                raise
            if record.state in TERMINAL_STATES:
                return record
            time.sleep(waiter.next_pause())

    def result(self, timeout: float | None = None) -> JobResult:
        """Waits for the result. Raises JobFailed, JobCancelled or TimeoutError."""
        return result_of_job(self.wait(timeout))

    def exception(self, timeout: float | None = None) -> JobError | None:
        """Waits for the end and returns the error that `result` would raise, or None."""
        return error_of_job(self.wait(timeout))

    def cancel(self) -> bool:
        """Cancels the job. False when it is too late: the job has ended or is already writing its result."""
        try:
            self._record = self._transport.send(_calls.cancel_job(self.id))
        except Conflict as error:
            if error.code != ErrorCode.ALREADY_FINISHED:
                raise
            return False
        return self._record.state in _GIVEN_UP

    def events(self, *, follow: bool = True, after: str | None = None) -> Iterator[Event]:
        """What happened, each event once, from the start or after the event with the id `after`.

        With `follow` it continues until the job ends, also over broken connections. Without it, it ends with the newest
        event.
        """
        if follow:
            yield from self._transport.follow(Follower(self.id, after))
            return
        while True:
            page = self._transport.send(_calls.get_events(self.id, after))
            yield from page.events
            if page.next_after is None:
                return
            after = page.next_after

    def logs(self, tail: int = LOG_LINES) -> tuple[str, ...]:
        """The last lines of the newest attempt's log."""
        return self._transport.send(_calls.get_logs(self.id, tail)).lines

    def delete(self) -> None:
        """Deletes the record of a job that has ended. Its result folder stays."""
        self._transport.send(_calls.delete_job(self.id))

    def _look(self, patience_s: float | None = None) -> JobRecord:
        if self._final is not None:
            return self._final
        self._record = self._transport.send(_calls.get_job(self.id), patience_s=patience_s)
        return self._record


class AsyncJob(_Handle):
    """One job for asyncio. Every method does what it does in `Job`."""

    def __init__(self, transport: AsyncTransport, job_id: str, record: JobRecord | None = None) -> None:
        super().__init__(job_id, record)
        self._transport = transport

    async def status(self) -> JobRecord:
        """The whole record: state, progress, result."""
        return await self._look()

    async def done(self) -> bool:
        """Whether the job has ended: succeeded, failed or cancelled."""
        return (await self._look()).state in TERMINAL_STATES

    async def running(self) -> bool:
        """Whether its ranks are running."""
        return (await self._look()).state in _RUNNING

    async def cancelled(self) -> bool:
        """Whether the job was cancelled."""
        return (await self._look()).state is JobState.CANCELLED

    async def wait(self, timeout: float | None = None) -> JobRecord:  # noqa: ASYNC109  the same surface as Job
        """Waits for the end and returns the record. Raises TimeoutError after `timeout` seconds; the job continues."""
        waiter = Waiter(self.id, timeout)
        while True:
            try:
                record = await self._look(patience_s=waiter.patience_s)
            except (ServiceUnreachable, Unavailable) as error:
                if waiter.is_over:
                    raise waiter.timeout() from error
                raise
            if record.state in TERMINAL_STATES:
                return record
            await asyncio.sleep(waiter.next_pause())

    async def result(self, timeout: float | None = None) -> JobResult:  # noqa: ASYNC109  the same surface as Job
        """Waits for the result. Raises JobFailed, JobCancelled or TimeoutError."""
        return result_of_job(await self.wait(timeout))

    async def exception(self, timeout: float | None = None) -> JobError | None:  # noqa: ASYNC109
        """Waits for the end and returns the error that `result` would raise, or None."""
        return error_of_job(await self.wait(timeout))

    async def cancel(self) -> bool:
        """Cancels the job. False when it is too late: the job has ended or is already writing its result."""
        try:
            self._record = await self._transport.send(_calls.cancel_job(self.id))
        except Conflict as error:
            if error.code != ErrorCode.ALREADY_FINISHED:
                raise
            return False
        return self._record.state in _GIVEN_UP

    async def events(self, *, follow: bool = True, after: str | None = None) -> AsyncIterator[Event]:
        """What happened, each event once, from the start or after the event with the id `after`."""
        if follow:
            async for event in self._transport.follow(Follower(self.id, after)):
                yield event
            return
        while True:
            page = await self._transport.send(_calls.get_events(self.id, after))
            for event in page.events:
                yield event
            if page.next_after is None:
                return
            after = page.next_after

    async def logs(self, tail: int = LOG_LINES) -> tuple[str, ...]:
        """The last lines of the newest attempt's log."""
        return (await self._transport.send(_calls.get_logs(self.id, tail))).lines

    async def delete(self) -> None:
        """Deletes the record of a job that has ended. Its result folder stays."""
        await self._transport.send(_calls.delete_job(self.id))

    async def _look(self, patience_s: float | None = None) -> JobRecord:
        if self._final is not None:
            return self._final
        self._record = await self._transport.send(_calls.get_job(self.id), patience_s=patience_s)
        return self._record

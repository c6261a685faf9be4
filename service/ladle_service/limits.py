"""What one owner may take of the service, so that others get their share: requests per second and open streams."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from ladle_contracts import ErrorCode
from ladle_service.auth import CallerDependency
from ladle_service.problems import ApiError

BURST_S = 20.0
"""An owner may use the requests of so many seconds at once."""
LONGEST_WAIT_S = 60
STREAM_RETRY_S = 5
MOST_INSPECTIONS = 4
"""Of one owner at once."""
EVENT_STREAM = "text/event-stream"


@dataclass
class _Use:
    """What an owner has asked for. Both numbers decrease by the allowed requests per second."""

    at: float
    spent: float = 0.0
    refused: float = 0.0


@dataclass(kw_only=True)
class OwnerLimits:
    """Counts what each owner uses."""

    requests_per_s: float
    streams: int
    clock: Callable[[], float] = time.monotonic
    _uses: dict[str, _Use] = field(default_factory=dict, init=False)
    _streams: Counter[str] = field(default_factory=Counter, init=False)
    _inspections: Counter[str] = field(default_factory=Counter, init=False)

    def count_request(self, owner: str) -> None:
        """Raises `too-many-requests`."""
        now = self.clock()
        use = self._uses.setdefault(owner, _Use(now))
        allowed, use.at = (now - use.at) * self.requests_per_s, now
        use.spent, use.refused = max(0.0, use.spent - allowed), max(0.0, use.refused - allowed)
        most = max(1.0, BURST_S * self.requests_per_s)
        if use.spent + 1 <= most:
            use.spent += 1
            return
        use.refused += 1
        # Each waits longer than the one before, so that they do not all come back at once.
        wait_s = min(LONGEST_WAIT_S, math.ceil((use.spent + use.refused - most) / self.requests_per_s))
        raise _refusal(
            ErrorCode.TOO_MANY_REQUESTS,
            f"There must be at most {self.requests_per_s:g} requests per second, but there are more. "
            f"Try again in {wait_s} s.",
            wait_s,
        )

    def open_stream(self, owner: str) -> None:
        """Raises `too-many-streams`."""
        if self._streams[owner] >= self.streams:
            raise _refusal(
                ErrorCode.TOO_MANY_STREAMS,
                f"At most {self.streams} streams of events may be open at once, but you have as many already. "
                "Close some, or ask for the job instead.",
                STREAM_RETRY_S,
            )
        self._streams[owner] += 1

    def close_stream(self, owner: str) -> None:
        """After `open_stream`."""
        self._streams[owner] -= 1
        if self._streams[owner] == 0:
            del self._streams[owner]

    @contextmanager
    def inspecting(self, owner: str) -> Iterator[None]:
        """Around an inspection. Raises `too-many-requests`."""
        if self._inspections[owner] >= MOST_INSPECTIONS:
            detail = f"At most {MOST_INSPECTIONS} folders may be inspected at once, but as many are. Try again."
            raise _refusal(ErrorCode.TOO_MANY_REQUESTS, detail, STREAM_RETRY_S)
        self._inspections[owner] += 1
        try:
            yield
        finally:
            self._inspections[owner] -= 1
            if self._inspections[owner] == 0:
                del self._inspections[owner]


def _refusal(code: ErrorCode, detail: str, wait_s: int) -> ApiError:
    return ApiError(code, detail, headers={"Retry-After": str(wait_s)})


async def _limits(request: Request) -> OwnerLimits:
    limits: OwnerLimits = request.app.state.limits
    return limits


LimitsDependency = Annotated[OwnerLimits, Depends(_limits)]


async def count_request(limits: LimitsDependency, caller: CallerDependency) -> None:
    """For every address that needs a token."""
    limits.count_request(caller.owner)


async def wants_stream(request: Request, limits: LimitsDependency, caller: CallerDependency) -> AsyncIterator[bool]:
    """Whether the request asks for a stream. If so, it counts as one until it has been answered."""
    if EVENT_STREAM not in request.headers.get("accept", ""):
        yield False
        return
    limits.open_stream(caller.owner)
    try:
        yield True
    finally:
        limits.close_stream(caller.owner)


WantsStream = Annotated[bool, Depends(wants_stream)]

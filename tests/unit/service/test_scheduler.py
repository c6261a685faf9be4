"""The scheduler's loop, without Redis: what a round does is tested in tests/integration."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from ladle_service.scheduler import Scheduler


@pytest.mark.parametrize("steps", range(6))
def test_a_cancellation_that_comes_together_with_a_wake_up_is_not_forgotten(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a service that is asked to stop goes on, and so does whatever it schedules."""

    async def nothing(*_: Any) -> bool:
        return True

    async def forever(*_: Any) -> None:
        await asyncio.Event().wait()

    async def cancelled() -> bool:
        monkeypatch.setattr(Scheduler, "tick", nothing)
        monkeypatch.setattr(Scheduler, "_listen", forever)
        scheduler = Scheduler(Redis(), waker=None, settle_s=0.0, backoff_ms=0)  # type: ignore[arg-type]
        running = asyncio.create_task(scheduler.run())
        for _ in range(5):
            await asyncio.sleep(0)
        scheduler._woken.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=60)
        return running in done and running.cancelled()

    assert asyncio.run(cancelled())

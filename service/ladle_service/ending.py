"""Ending a task that runs beside the service."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_S = 1.0


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels the task until it has ended.

    Once is not enough: redis-py sends in `asyncio.wait_for`, and Python 3.11's forgets a cancellation that comes
    together with what it waits for.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_S)

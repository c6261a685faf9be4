"""A task ends although it forgets a cancellation, as `asyncio.wait_for` of Python 3.11 does."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from ladle_service import ending


def test_a_task_that_forgets_its_first_cancellation_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "AGAIN_S", 0.01)

    async def forgetful() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    async def scenario() -> None:
        task = asyncio.create_task(forgetful())
        await asyncio.sleep(0)
        await asyncio.wait_for(ending.end(task), timeout=30)
        assert task.cancelled()

    asyncio.run(scenario())


def test_one_that_has_ended_already_keeps_its_end() -> None:
    async def scenario() -> str:
        task = asyncio.create_task(asyncio.sleep(0, "done"))
        await task
        await ending.end(task)
        return task.result()

    assert asyncio.run(scenario()) == "done"

"""The list of jobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any

from ladle_contracts import JobState
from tests.browser.jobs_made import result
from tests.unit.service.fakes import Service

RunAsync = Callable[[Coroutine[Any, Any, None]], None]


def test_a_job_that_cannot_be_read_does_not_hide_all_others(service: Service, run_async: RunAsync) -> None:
    """JSON has no NaN: it became `null`, which is no gain."""

    async def use() -> None:
        async with service.client() as client:
            for _ in range(2):
                await client.post("/v1/jobs", json=service.spec())
            service.store.move("job1", JobState.SUCCEEDED, result=result("/results/job1", gain=math.nan))
            service.store.move("job2", JobState.SUCCEEDED, result=result("/results/job2"))
            answer = await client.get("/", headers={"Accept": "text/html"})
        assert answer.status_code == 200
        assert "/jobs/job2" in answer.text
        assert "/jobs/job1" not in answer.text

    run_async(use())

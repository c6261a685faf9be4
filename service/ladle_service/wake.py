"""Wakes nodes through Celery. It sends the task by its name, because the service never imports the worker."""

from __future__ import annotations

import asyncio

from celery import Celery

from ladle_contracts import keys
from ladle_contracts.broker import VISIBILITY_TIMEOUT_S, broker_url


class Waker:
    """Sends `(job_id, attempt, node_rank)` to a node's own queue. That only wakes the node: the state is in Redis."""

    def __init__(self, redis_url: str) -> None:
        self._celery = Celery("ladle", broker=broker_url(redis_url), set_as_current=False)
        self._celery.conf.update(
            task_serializer="json",
            accept_content=["json"],
            task_ignore_result=True,
            # Without time limits a dead connection would block the scheduler for minutes.
            broker_transport_options={
                "visibility_timeout": VISIBILITY_TIMEOUT_S,
                "socket_timeout": 5,
                "socket_connect_timeout": 3,
            },
            broker_connection_timeout=3,
            task_publish_retry=False,
        )

    async def wake(self, node_id: str, job_id: str, attempt: int, node_rank: int) -> None:
        """Raises `kombu.exceptions.OperationalError` when the broker does not answer."""
        # kombu blocks, so it runs in a thread. No expiry: the node would judge it by its own clock, and an old message
        # does no harm, because its attempt can no longer be claimed.
        await asyncio.to_thread(
            self._celery.send_task,
            keys.RUN_TASK,
            args=[job_id, attempt, node_rank],
            queue=keys.node_queue(node_id),
        )

    def close(self) -> None:
        self._celery.close()

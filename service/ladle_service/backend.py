"""What the application needs while it runs: connections to Redis, the store, and the scheduler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ladle_service.ending import end
from ladle_service.scheduler import Scheduler
from ladle_service.settings import Settings
from ladle_service.store import JobStore
from ladle_service.wake import Waker
from ladle_service.webhooks.calling import Caller
from ladle_service.webhooks.deliveries import Deliveries, Targets

logger = logging.getLogger(__name__)

ANSWER_S = 5.0
COMMAND_CONNECTIONS = 32
RESTART_S = 1.0
DRIVER = DriverInfo()
"""Made once, because otherwise each connection reads redis-py's version from the disk, on the event loop."""


@asynccontextmanager
async def connect_backend(settings: Settings) -> AsyncIterator[JobStore]:
    """The store, with the scheduler beside it. It starts without Redis too: `/readyz` says when Redis is there."""
    url = settings.redis_url.get_secret_value()
    command_pool = BlockingConnectionPool.from_url(
        url, max_connections=COMMAND_CONNECTIONS, timeout=ANSWER_S, **_options(ANSWER_S)
    )
    # Its reader waits in Redis for events. It must not take a connection away from short requests.
    stream_pool = ConnectionPool.from_url(url, **_options(ANSWER_S))
    scheduler_pool = ConnectionPool.from_url(url, **_options(2 * ANSWER_S))
    async with AsyncExitStack() as stack:
        commands = await stack.enter_async_context(Redis.from_pool(command_pool))
        streams = await stack.enter_async_context(Redis.from_pool(stream_pool))
        scheduling = await stack.enter_async_context(Redis.from_pool(scheduler_pool))
        waker = Waker(url)
        stack.push_async_callback(asyncio.to_thread, waker.close)
        targets = Targets(secret=settings.webhook_secret(), always=settings.webhooks)
        webhooks = Deliveries(scheduling, targets, Caller(settings.webhook_networks))
        scheduler = Scheduler(scheduling, waker, retention=settings.retention, webhooks=webhooks)
        task = asyncio.create_task(_keep_running(scheduler))
        stack.push_async_callback(_stop, task, scheduler)
        store = JobStore(commands, streams, most_queued=settings.max_queued_jobs_per_owner)
        stack.push_async_callback(store.end_streams)
        yield store


def _options(answer_s: float) -> dict[str, object]:
    retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), 2, (RedisConnectionError, RedisTimeoutError))
    return {
        "decode_responses": True,
        "socket_timeout": answer_s,
        "socket_connect_timeout": ANSWER_S / 2,
        "retry": retry,
        "driver_info": DRIVER,
    }


async def _keep_running(scheduler: Scheduler) -> None:
    """The scheduler survives a Redis outage. Any other error is a bug of ours, and must not stop all jobs."""
    while True:
        try:
            await scheduler.run()
        except Exception:
            logger.exception("the scheduler failed and is restarted")
        await asyncio.sleep(RESTART_S)


async def _stop(task: asyncio.Task[None], scheduler: Scheduler) -> None:
    await end(task)
    try:
        await scheduler.resign()
    except RedisError as error:
        logger.warning("the scheduler's lock was not given back, and will expire: %s", error)

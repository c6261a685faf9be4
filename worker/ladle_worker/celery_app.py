"""The Celery application of one node: one queue, one job at a time. It never imports torch."""

from __future__ import annotations

import logging
import os
import signal
from types import FrameType
from typing import Any

from celery import Celery, signals
from celery.exceptions import Ignore
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from ladle_contracts import keys, telemetry
from ladle_contracts.broker import VISIBILITY_TIMEOUT_S, broker_url
from ladle_contracts.logs import about
from ladle_contracts.processes import keep_secrets
from ladle_worker.agent import run_attempt
from ladle_worker.claim import NotOurs
from ladle_worker.family import adopt_orphans, die_with_parent
from ladle_worker.launch.standby import STANDBY
from ladle_worker.launch.torchrun import environment_with
from ladle_worker.node import Node
from ladle_worker.settings import Settings

logger = logging.getLogger(__name__)


def make_app(settings: Settings, node: Node) -> Celery:
    """The application, with settings that keep long jobs from being lost or run twice."""
    app = Celery("ladle", broker=broker_url(settings.redis_url.get_secret_value()))
    transport = {"visibility_timeout": VISIBILITY_TIMEOUT_S}
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=settings.soft_shutdown_s,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        broker_transport_options=transport,
        result_backend_transport_options=transport,
        visibility_timeout=VISIBILITY_TIMEOUT_S,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # What Redis refuses for a while (writes, when its disk is full) must not end the worker.
        broker_channel_error_retry=True,
        worker_consumer=patient_consumer(node),
    )

    @app.task(name=keys.RUN_TASK)
    def run(job_id: str, attempt: int, node_rank: int) -> None:
        """The message only wakes the node. Redis says whether there is anything to do."""
        with about(job=job_id, attempt=attempt, node_rank=node_rank):
            try:
                state = run_attempt(settings, job_id, attempt, node.protections, node.gpus)
            except NotOurs as error:
                logger.info("nothing to do: %s", error)
                raise Ignore from error
            finally:
                # What waited has become the launcher of this job.
                STANDBY.renew()
                telemetry.end()
            logger.info("attempt %s of job %s (node rank %s) ended: %s", attempt, job_id, node_rank, state)

    _connect_signals(settings, node)
    return app


def patient_consumer(node: Node) -> type[Consumer]:
    """Celery's consumer, which connects only when Redis takes writes: without them it can only fail again."""

    class PatientConsumer(Consumer):
        def connect(self) -> Any:
            node.wait_for_redis(between=maybe_shutdown)
            return super().connect()

    return PatientConsumer


def _leave_first(node: Node, number: signal.Signals) -> None:
    """Calls `leave` before Celery's own handler, so that the agent returns its job while Celery waits."""
    handler = signal.getsignal(number)

    def leave(received: int, frame: FrameType | None) -> None:
        node.leave()
        if callable(handler):
            handler(received, frame)

    signal.signal(number, leave)


def _connect_signals(settings: Settings, node: Node) -> None:
    def keep_log(**_: Any) -> None:
        """Celery leaves the log as it is if somebody answers this signal."""

    def begin(**_: Any) -> None:
        node.start()
        # Celery's own signal comes only after the soft shutdown, when the child is about to be killed.
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
            _leave_first(node, number)

    def bind_child(**_: Any) -> None:
        # However the main process ends, the child that runs the job ends with it, and so do its ranks.
        die_with_parent(os.getppid())
        keep_secrets()
        telemetry.name_service("ladle-worker")
        adopt_orphans()
        if settings.standby and settings.launcher == "torchrun":
            STANDBY.turn_on(environment_with(node.protections))

    signals.setup_logging.connect(keep_log, weak=False)
    signals.worker_ready.connect(begin, weak=False)
    signals.worker_process_init.connect(bind_child, weak=False)

"""`python -m ladle_worker`: this machine as a node."""

from __future__ import annotations

import logging
import os
import sys

# Celery reads it at import: SIGTERM then means "end the job in order, soon" and not "wait until it is done".
os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")

from pydantic import ValidationError

from ladle_contracts import keys
from ladle_contracts.beneath import WITHOUT_OPENAT2, has_openat2
from ladle_contracts.environment import explain_settings
from ladle_contracts.logs import always_about, set_up_logging
from ladle_contracts.processes import keep_secrets
from ladle_contracts.safe_text import for_terminal
from ladle_worker.celery_app import make_app
from ladle_worker.confinement.choose import CannotConfine
from ladle_worker.job_folder import JOBS_FOLDER
from ladle_worker.launch.choose import check_launcher
from ladle_worker.launch.launcher import WrongLauncher
from ladle_worker.node import CannotDescribe, Node, describe
from ladle_worker.settings import Settings
from ladle_worker.slots import Slots, WrongSlots, divide

logger = logging.getLogger(__name__)


def main() -> int:
    set_up_logging("info")
    keep_secrets()
    try:
        settings = Settings()
    except ValidationError as error:
        print("ladle_worker cannot start:", *explain_settings(error), sep="\n  ", file=sys.stderr)
        return 2
    try:
        (settings.results_dir / JOBS_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"`LADLE_RESULTS_DIR` cannot be made: {error}.", file=sys.stderr)
        return 2
    always_about(node=settings.node_id)
    if not has_openat2():
        logger.warning("%s", WITHOUT_OPENAT2)
    try:
        check_launcher(settings)
        described = describe()
        if settings.slots > 1:
            return Slots(divide(settings, described)).run()
        node = Node(settings, described)
    except (CannotDescribe, CannotConfine, WrongLauncher, WrongSlots) as error:
        print(for_terminal(str(error)), file=sys.stderr)
        return 2
    app = make_app(settings, node)
    queue = keys.node_queue(settings.node_id)
    app.worker_main(
        [
            *("worker", "--pool=prefork", f"--concurrency={settings.holds if settings.dispatches else 1}"),
            f"--queues={queue}",
            *(f"--hostname=ladle@{settings.node_id}", "--loglevel=INFO"),
            # Nobody reads Celery's own events, and with Redis gone their sender never lets the process end.
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

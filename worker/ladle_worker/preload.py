"""The modules that ranks need. A launcher imports them once and forks the ranks, which then have them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ENGINE = (
    *("torch", "torch.distributed", "torch.optim", "ladle_contracts", "ladle_engine"),
    *("ladle_worker.boundary", "ladle_worker.convert", "ladle_worker.failure"),
    *("ladle_worker.far_table", "ladle_worker.told"),
)
"""What `ladle_worker.rank` imports."""
OF_TASKS = (
    "transformers.modeling_utils",
    *("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
    "transformers.models.auto.image_processing_auto",
)
"""What tasks import later, and which takes seconds. Never a plug-in's: what that does is a matter of its jobs."""
DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri")


def import_engine() -> None:
    """Raises ImportError."""
    for name in ENGINE:
        importlib.import_module(name)


def import_libraries_of_tasks(is_asked: Callable[[], bool]) -> None:
    """Until a job is there. A job that needs one that cannot be imported will say so itself."""
    for name in OF_TASKS:
        if is_asked():
            return
        # The last two where a compiled part was made for another version of torch.
        with suppress(ImportError, OSError, RuntimeError):
            importlib.import_module(name)


def why_not_to_fork() -> str:
    """Why this process cannot be confined, or ranks should not be forked from it. Empty if nothing is wrong."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        return f"the imports have started {threads - 1} threads"
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(descriptor.readlink()).startswith(DEVICES):
                return f"the imports have opened {descriptor.readlink()}"
    return ""

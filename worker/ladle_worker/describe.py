"""Prints as JSON what this installation can do: `python -m ladle_worker.describe`.

It is a separate process because the node's Celery process never imports torch.
"""

from __future__ import annotations

import json
import os
import sys

from ladle_worker.confinement.probe import probe


def describe() -> dict[str, object]:
    # Before torch starts threads.
    protections = probe()
    import torch

    from ladle_engine import methods, tasks
    from ladle_engine.storage.host_memory import free_host_bytes
    from ladle_worker.convert import catalog
    from ladle_worker.cores import usable_cores

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    _, broken = tasks.load_tasks()
    for name, error in broken.items():
        print(f"the task plug-in `{name}` does not load: {error}", file=sys.stderr)
    return {
        "catalog": catalog(methods.catalog(), tasks.catalog()).model_dump(mode="json"),
        "gpus": gpus,
        "torch_version": torch.__version__,
        "protections": protections,
        "broken_tasks": broken,
        "ranks": len(gpus) or usable_cores(),
        "host_bytes": free_host_bytes(),
    }


if __name__ == "__main__":
    print(json.dumps(describe()), flush=True)
    # A plug-in may print once more while Python ends, or have a thread that never does.
    os._exit(0)

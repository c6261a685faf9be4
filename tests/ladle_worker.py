"""The real worker, as `python -m tests.ladle_worker`. What this installation can do is asked once and remembered.

To ask takes an import of torch and of every task: for each of the suite's hundred workers, longer than most jobs.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import ladle_worker.__main__ as worker
from ladle_worker.node import describe


def remembered() -> dict[str, Any]:
    """What `describe` said when it was first asked with these folders for modules, plug-ins among them."""
    folder = Path(os.environ["DESCRIPTIONS"])
    if not folder.exists():  # on a host with a disk of its own
        return describe()
    path = folder / f"{hashlib.sha256(os.pathsep.join(sys.path).encode()).hexdigest()}.json"
    if not path.exists():
        # Two workers that ask at once write the same.
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(describe()))
        unfinished.rename(path)
    described: dict[str, Any] = json.loads(path.read_text())
    return described


worker.describe = remembered

if __name__ == "__main__":
    sys.exit(worker.main())

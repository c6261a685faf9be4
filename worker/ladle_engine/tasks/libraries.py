"""Libraries that some tasks need and Ladle does not bring by itself."""

from __future__ import annotations

import importlib
from typing import Any

from ladle_engine.errors import TaskError


def require(module: str, extra: str) -> Any:
    """The module, imported. `extra` is the one of Ladle's that installs it: `text`, say.

    Raises `TaskError` (missing-library) that names the library and the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        # The last two where its compiled part was made for another version of torch.
        version = "" if isinstance(error, ImportError) else " It must be the version for the torch that is there."
        raise TaskError(
            "missing-library",
            f"The library `{module}` must be installed for this, but cannot be imported ({str(error)[:200]}). "
            f"Install it beside the worker: pip install 'ladle[{extra}]'.{version}",
        ) from error

"""The methods and tasks that were last seen here, for completion in a shell: it has no time to import torch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import platformdirs
from pydantic import ValidationError

from ladle_contracts import Catalog


def cached_catalog() -> Catalog | None:
    """None if nothing was seen yet, or a file of another version lies there."""
    with suppress(OSError, ValidationError):
        return Catalog.read(_path().read_bytes())
    return None


def keep_catalog(catalog: Catalog) -> None:
    """Writes it. Where that is not possible, completion has less to say, and nothing else happens."""
    with suppress(OSError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        part = _path().with_suffix(".part")
        part.write_text(catalog.model_dump_json())
        part.replace(_path())


def _path() -> Path:
    return platformdirs.user_cache_path("ladle") / "catalog.json"

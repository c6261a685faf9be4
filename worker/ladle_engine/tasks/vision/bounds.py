"""What a stranger's file may ask a library to build: no more than the checkpoints hold, and failures in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ladle_engine.errors import TaskError


@contextmanager
def translated_model(library: str, model: str, where: str) -> Iterator[None]:
    """Wrong values fail wherever the library first uses them: TypeError, AssertionError, RuntimeError ..."""
    try:
        yield
    except (TaskError, MemoryError):
        raise
    except Exception as error:
        raise TaskError(
            "model-mismatch",
            f"{where} must describe a model that {library} can build, but `{model[:200]}` fails "
            f"({type(error).__name__}: {str(error)[:300]}).",
        ) from error

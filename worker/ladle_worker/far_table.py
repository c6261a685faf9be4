"""Far files as a rank sees them: a mirror that is complete where it will read. A rank fetches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ladle_engine import CheckpointError
from ladle_engine.far_names import show_mirror
from ladle_engine.storage.far.presence import Parts, installed


def far_files(far: Mapping[str, Any] | None) -> AbstractContextManager[None]:
    """Inside, a byte that was not fetched is an error and not a zero. `far` is what the fetching process wrote."""
    return nullcontext() if far is None else installed(FarTable(far))


class FarTable:
    """The engine's source of what is here."""

    def __init__(self, far: Mapping[str, Any]) -> None:
        self._mirror = Path(far["mirror"])
        self._here: Mapping[str, list[tuple[int, int]] | None] = far["here"]
        self._parts: Mapping[str, Parts] = far["parts"]
        self._record: dict[str, str] = far["record"]
        show_mirror(far["mirror"])

    def want(self, path: Path, start: int, stop: int | None) -> None:
        if not self.is_mirrored(path):
            return
        ranges = self._here.get(str(path), ())
        if ranges is None or any(first <= start and stop is not None and stop <= last for first, last in ranges):
            return
        raise CheckpointError(
            "unreadable-input",
            f"Bytes of `{path}` are needed that were not fetched. This is a mistake in Ladle, not in your input.",
        )

    def parts(self, path: Path) -> Parts | None:
        return self._parts.get(str(path))

    def is_mirrored(self, path: Path) -> bool:
        return path.is_relative_to(self._mirror)

    def fetch(self, wanted: Mapping[Path, Parts | None]) -> None:
        """All is here."""

    def refuse_changed(self) -> None:
        """The process that fetched looks at the end."""

    def record(self) -> dict[str, str]:
        return self._record

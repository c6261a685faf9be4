"""One thing that `ladle doctor` has checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was checked, what was found, and what to do about it."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    needed: bool = True
    """Whether nothing works without it."""

    def as_json(self) -> dict[str, object]:
        return asdict(self)

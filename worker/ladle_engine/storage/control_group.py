"""How much memory the control groups of this process leave free (Linux, versions 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True, kw_only=True)
class _Files:
    """What a version calls its files."""

    limits: tuple[str, ...]
    """The smallest counts."""
    used: str
    cached: str
    """The entry of `memory.stat` that counts page cache which the kernel takes back before anything else."""
    limit_above: str | None = None
    """The entry of `memory.stat` with the smallest limit of the groups above, which a container may not see."""


V1 = _Files(
    limits=("memory.limit_in_bytes",),
    used="memory.usage_in_bytes",
    cached="total_inactive_file",
    limit_above="hierarchical_memory_limit",
)
# Beyond `high` the kernel lets a process wait again and again instead of ending it: a job would hardly go on.
V2 = _Files(limits=("memory.max", "memory.high"), used="memory.current", cached="inactive_file")


def free_bytes() -> list[int]:
    """Of every control group with a limit, from this process' own to the root's. Empty without any.

    Swap does not count: what is swapped out does not get a step done.
    """
    found = []
    for folder, files in _groups():
        statistics = _statistics(folder / "memory.stat")
        limits = [_read_number(folder / name) for name in files.limits] + [statistics.get(files.limit_above or "")]
        used = _read_number(folder / files.used)
        known = [limit for limit in limits if limit is not None]
        if known and used is not None:
            # `used` counts cached files too, such as the checkpoints that were just read; they give way.
            held = used - min(statistics.get(files.cached, 0), used)
            found.append(max(min(known) - held, 0))
    return found


def _groups() -> Iterator[tuple[Path, _Files]]:
    """The folders of this process' memory groups."""
    for line in (_text(OWN_GROUPS) or "0::/").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts: tuple[Path, ...] = (ROOT, ROOT / "unified")
            files = V2
        elif "memory" in controllers.split(","):
            mounts, files = (ROOT / "memory",), V1
        else:
            continue
        for mount in mounts:
            for folder in _own_and_above(mount, path):
                yield folder, files


def _own_and_above(mount: Path, path: str) -> Iterator[Path]:
    """A group's folder and those above it. In a container a group further down may be mounted as the root."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    while parts and not mount.joinpath(*parts).is_dir():
        parts = parts[1:]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _read_number(path: Path) -> int | None:
    """The number in a control group's file; None where there is no such file, or no limit (`max`)."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _statistics(path: Path) -> dict[str, int]:
    """`memory.stat`, in bytes."""
    entries = [line.split() for line in _text(path).splitlines()]
    return {entry[0]: int(entry[1]) for entry in entries if len(entry) == 2 and entry[1].isdigit()}


def _text(path: Path) -> str:
    """Empty where there is no such file, or its group has just ended."""
    try:
        return path.read_text()
    except OSError:
        return ""

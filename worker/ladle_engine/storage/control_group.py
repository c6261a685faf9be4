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

    limit: str
    used: str
    cached: str
    """The entry of `memory.stat` that counts page cache which the kernel takes back before anything else."""


V1 = _Files(limit="memory.limit_in_bytes", used="memory.usage_in_bytes", cached="total_inactive_file")
V2 = _Files(limit="memory.max", used="memory.current", cached="inactive_file")


def free_bytes() -> list[int]:
    """Of every control group with a limit, from this process' own to the root's. Empty without any."""
    found = []
    for folder, files in _groups():
        limit, used = _read_number(folder / files.limit), _read_number(folder / files.used)
        if limit is not None and used is not None:
            # `used` counts cached files too, such as the checkpoints that were just read; they give way.
            held = used - min(_statistic(folder / "memory.stat", files.cached), used)
            found.append(max(limit - held, 0))
    return found


def _groups() -> Iterator[tuple[Path, _Files]]:
    """The folders of this process' memory groups, which in a container may be mounted as the root itself."""
    for line in OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.exists() else ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, files = ROOT, V2
        elif "memory" in controllers.split(","):
            root, files = ROOT / "memory", V1
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            yield folder, files
            if folder == root:
                break


def _read_number(path: Path) -> int | None:
    """The number in a control group's file; None where there is no such file, or no limit (`max`)."""
    if not path.is_file():
        return None
    text = path.read_text().strip()
    return int(text) if text.isdigit() else None


def _statistic(path: Path, name: str) -> int:
    """One entry of `memory.stat`, in bytes; 0 where it is not there."""
    if not path.is_file():
        return 0
    entries = dict(line.split(maxsplit=1) for line in path.read_text().splitlines() if " " in line)
    return int(entries.get(name, 0))

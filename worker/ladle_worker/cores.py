"""How many cores this process may use: those that it may run on, within the CPU quota of its control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """At least one. Of a quota of 2.5 cores two are used, because threads that wait for each other must all run."""
    return max(1, int(min([len(os.sched_getaffinity(0)), *_quotas()])))


def _quotas() -> Iterator[float]:
    """In cores, of every control group with a quota, from this process' own to the root's."""
    for folder in _groups():
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is None:
            quota, period = _pair(folder / "cpu.max")
        # Version 1 writes -1 and version 2 `max` where there is no quota.
        if quota is not None and period is not None and quota > 0 and period > 0:
            yield quota / period


def _groups() -> Iterator[Path]:
    """The folders of this process' groups, in both versions."""
    for line in _text(OWN_GROUPS).splitlines():
        _, names, path = line.split(":", 2)
        if names == "":
            yield from _own_and_above(CONTROL_GROUPS, path)
            yield from _own_and_above(CONTROL_GROUPS / "unified", path)
        elif "cpu" in names.split(","):
            # Controllers that share a hierarchy are often mounted under their joint name, with links from each.
            for mount in dict.fromkeys(("cpu", names)):
                yield from _own_and_above(CONTROL_GROUPS / mount, path)


def _own_and_above(mount: Path, path: str) -> Iterator[Path]:
    """A group's folder and those above it. In a container a group further down may be mounted as the root."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    while parts and not mount.joinpath(*parts).is_dir():
        parts = parts[1:]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.removeprefix("-").isdigit() else None


def _pair(path: Path) -> tuple[int | None, int | None]:
    """The two numbers of `cpu.max`; None for `max`."""
    quota, _, period = _text(path).strip().partition(" ")
    return (int(quota), int(period)) if quota.isdigit() and period.isdigit() else (None, None)


def _text(path: Path) -> str:
    """Empty where there is no such file, or its group has just ended."""
    try:
        return path.read_text()
    except OSError:
        return ""

"""What one attempt is confined to. The agent makes the plan, and `ladle_worker.torchrun` reads it elsewhere."""

from __future__ import annotations

import json
import os
import site
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILES, NETWORK, PORTS, PROCESSES, MEMORY = "files", "network", "ports", "processes", "memory"
PROTECTIONS = (FILES, NETWORK, PORTS, PROCESSES, MEMORY)
"""Each is explained in docs/deploy.md."""

SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/etc", "/opt", "/nix/store"),
    *("/proc", "/sys", "/run/nvidia-persistenced", "/run/opengl-driver"),
)
DEVICES = (
    *("null", "zero", "full", "random", "urandom", "tty"),
    *("nvidia*", "dri", "kfd", "infiniband"),
)
"""In `/dev`."""
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - not a temporary file of ours
"""gloo, NCCL and torch exchange tensors between ranks through it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """JSON on its way to the launcher."""

    agent: int
    """The process id of the agent, which the ranks do not outlive."""
    protections: tuple[str, ...]
    """Those to apply, of `PROTECTIONS`."""
    inputs: tuple[str, ...]
    """The folders of the checkpoints, or globs of them, which say how large a file of this job may be."""
    outputs: str
    read: tuple[str, ...]
    write: tuple[str, ...]
    devices: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    """Sockets that no rank may connect to."""
    ports: tuple[int, ...] = ()
    """Those that ranks may connect to besides the usual ones: where the ranks of several nodes meet."""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Plan:
        return cls.of(json.loads(path.read_text()))

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Plan:
        """Of its fields as JSON has them."""
        fields: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in saved.items()}
        return cls(**fields)


def readable(roots: Iterable[Path], more: Iterable[Path], secrets: Collection[Path]) -> tuple[str, ...]:
    """What every rank may read: the system, Python with the installed packages, the roots and `more`; no secret."""
    paths = [*map(Path, SYSTEM), *_python(), *_caches(), *roots, *more]
    hidden = {secret.resolve() for secret in secrets}
    return tuple(dict.fromkeys(str(part) for path in paths for part in _without(path, hidden)))


def writable(folders: Iterable[Path], more: Iterable[Path]) -> tuple[str, ...]:
    """The attempt's own folders, shared memory and `more`."""
    named = os.environ.get("TRITON_CACHE_DIR")
    return (*map(str, folders), SHARED_MEMORY, *([named] if named else []), *map(str, more))


def devices() -> tuple[str, ...]:
    return tuple(str(path) for pattern in DEVICES for path in sorted(Path("/dev").glob(pattern)))


def _python() -> Iterator[Path]:
    yield from map(Path, (sys.prefix, sys.base_prefix, sys.exec_prefix))
    yield Path(sys.executable).resolve().parent
    yield from (path for path in map(Path, sys.path) if path.is_absolute())
    if site.ENABLE_USER_SITE:
        yield Path(site.getuserbase())
    for name in ("LD_LIBRARY_PATH", "PYTHONPATH"):
        yield from (Path(path) for path in os.environ.get(name, "").split(os.pathsep) if path)


def _caches() -> Iterator[Path]:
    """What Hugging Face's libraries have downloaded before, but not the token that lies beside it."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    yield from (home / "hub", home / "modules")


def _without(path: Path, hidden: Collection[Path]) -> Iterator[Path]:
    """`path`, or all that is in it but the hidden files."""
    real = path.resolve()
    if real in hidden:
        return
    if not any(secret.is_relative_to(real) for secret in hidden):
        yield path
        return
    for entry in sorted(real.iterdir()):
        yield from _without(entry, hidden)

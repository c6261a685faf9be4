"""What a dispatcher hands over to the machines that a scheduler gave it: `hand-over.json` in the attempt's folder.

Nothing secret is in it, and nothing of Redis: the machines see the shared folders, and that is all.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Self

from ladle_worker.job_folder import AttemptFolder, write_whole
from ladle_worker.launch.launcher import Launch, Launcher, Status
from ladle_worker.settings import Settings
from ladle_worker.tree import Meanwhile, nothing

HOLD_S = 2.0
LEAST_HELD_S = 60.0
LEASES = 4


@dataclass(frozen=True, kw_only=True)
class HandOver:
    job_id: str
    attempt: int
    module: str
    ranks_per_node: int | None
    """None: one per GPU of the machine, or one."""
    confine: tuple[str, ...]
    """What the operator asks for. Each machine finds out what its kernel grants."""
    ports: tuple[int, int]
    kill_grace_s: float
    held_s: float
    """Ranks end when nobody has touched `held` for so long: their dispatcher is gone, or this machine is cut off."""
    versions: Mapping[str, str]
    """The dispatcher's. The machines must have the same."""
    plan: Mapping[str, Any]
    """The dispatcher's part of a `Plan`."""

    @classmethod
    def load(cls, folder: AttemptFolder) -> Self:
        """Raises OSError."""
        saved = json.loads(folder.hand_over.read_text())
        return cls(**{**saved, "confine": tuple(saved["confine"]), "ports": tuple(saved["ports"])})


def hand_over(launch: Launch, settings: Settings) -> None:
    """Writes it, and what the machines wait for or append to. Raises OSError."""
    folder = launch.folder
    # A client of NFS that knows a file sees it grow at once. One that has looked for it in vain may not, for a minute.
    for path in (folder.events, folder.log, folder.held):
        path.touch()
    folder.places.mkdir(exist_ok=True)
    handed = HandOver(
        job_id=launch.job_id,
        attempt=launch.attempt,
        module=launch.module,
        ranks_per_node=launch.ranks_per_node,
        confine=settings.confine,
        ports=settings.ports,
        kill_grace_s=settings.kill_grace_s,
        held_s=max(LEAST_HELD_S, LEASES * settings.lease_s),
        versions={"ladle": version("ladle")},
        plan=asdict(launch.plan),
    )
    write_whole(folder.hand_over, asdict(handed))


def hold(folder: AttemptFolder) -> None:
    """Says to the machines that the attempt goes on. Raises OSError."""
    os.utime(folder.held)


def let_go(folder: AttemptFolder) -> None:
    """Says to all machines, also those that nobody else reaches any more, that the attempt is over. Raises OSError."""
    folder.held.unlink(missing_ok=True)


class HandedOver:
    """A launcher that hands the attempt over to machines elsewhere, and tells them whether it goes on."""

    def __init__(self, launcher: Launcher, settings: Settings) -> None:
        self._launcher = launcher
        self._settings = settings
        self._held_at = 0.0

    def start(self, launch: Launch) -> None:
        self._folder = launch.folder
        hand_over(launch, self._settings)
        self._launcher.start(launch)

    def status(self) -> Status:
        if time.monotonic() - self._held_at >= HOLD_S:
            self._held_at = time.monotonic()
            with suppress(OSError):
                hold(self._folder)
        status = self._launcher.status()
        if status.is_over:
            # Opening it asks the server of a shared disk: what the machines wrote at the end is seen from here on.
            with suppress(OSError):
                os.listdir(self._folder.path)  # noqa: PTH208
        return status

    def logs(self) -> Sequence[str]:
        return self._launcher.logs()

    def cancel(self, grace_s: float, meanwhile: Meanwhile = nothing) -> None:
        with suppress(OSError):
            let_go(self._folder)
        self._launcher.cancel(grace_s, meanwhile)

    def forget(self) -> None:
        self._launcher.forget()

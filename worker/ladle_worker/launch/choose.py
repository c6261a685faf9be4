"""The launcher that `LADLE_LAUNCHER` names."""

from __future__ import annotations

from ladle_worker.launch.launcher import Launcher
from ladle_worker.launch.process import Process
from ladle_worker.launch.torchrun import Torchrun
from ladle_worker.settings import Settings


def launcher_of(settings: Settings) -> Launcher:
    if settings.launcher == "process":
        return Process()
    return Torchrun()

"""The launcher that `LADLE_LAUNCHER` names."""

from __future__ import annotations

from typing import Any

from ladle_worker.launch.hand_over import HandedOver
from ladle_worker.launch.kubernetes.launcher import Kubernetes
from ladle_worker.launch.kubernetes.settings import KubernetesSettings
from ladle_worker.launch.kubernetes.start import check_kubernetes
from ladle_worker.launch.kubernetes.works import end_orphans as end_orphans_of_kubernetes
from ladle_worker.launch.launcher import Launcher
from ladle_worker.launch.process import Process
from ladle_worker.launch.slurm.launcher import Slurm
from ladle_worker.launch.slurm.orphans import end_orphans as end_orphans_of_slurm
from ladle_worker.launch.slurm.settings import SlurmSettings
from ladle_worker.launch.slurm.start import check_slurm
from ladle_worker.launch.torchrun import Torchrun
from ladle_worker.settings import Settings


def launcher_of(settings: Settings) -> Launcher:
    if settings.launcher == "process":
        return Process()
    if settings.launcher == "slurm":
        return HandedOver(Slurm(settings, SlurmSettings()), settings)
    if settings.launcher == "kubernetes":
        return HandedOver(Kubernetes(KubernetesSettings()), settings)
    return Torchrun()


def check_launcher(settings: Settings) -> None:
    """What is wrong is said when the worker starts, and not by the first job. Raises `WrongLauncher`."""
    if settings.launcher == "slurm":
        check_slurm()
    if settings.launcher == "kubernetes":
        check_kubernetes()


def end_orphans(settings: Settings, redis: Any) -> None:
    """Ends what an earlier run of a dispatcher left elsewhere. Raises `RedisError`."""
    if settings.launcher == "slurm":
        end_orphans_of_slurm(settings, redis)
    if settings.launcher == "kubernetes":
        end_orphans_of_kubernetes(KubernetesSettings(), redis)

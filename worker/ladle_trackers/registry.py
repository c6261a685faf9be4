"""The trackers by their names in a job."""

from __future__ import annotations

from collections.abc import Callable

from ladle_trackers.base import CannotTrack, Run, Tracker
from ladle_trackers.to_mlflow import ToMlflow
from ladle_trackers.to_tensorboard import ToTensorBoard
from ladle_trackers.to_trackio import ToTrackio
from ladle_trackers.to_wandb import ToWandb

TRACKERS: dict[str, Callable[[Run], Tracker]] = {
    "tensorboard": ToTensorBoard,
    "mlflow": ToMlflow,
    "wandb": ToWandb,
    "trackio": ToTrackio,
}
PACKAGES = {"tensorboard": "tensorboardX"}
"""What a tracker's library is called, where that is not the tracker's name."""


def open_tracker(name: str, run: Run) -> Tracker:
    """Raises `CannotTrack` where its library is not installed, and whatever that raises."""
    try:
        return TRACKERS[name](run)
    except ModuleNotFoundError as error:
        package = PACKAGES.get(name, name)
        raise CannotTrack(
            f"the tracker `{name}` needs `{package}` beside the worker, but `{error.name}` is not installed. "
            f"The operator can install it with `pip install {package}`"
        ) from error

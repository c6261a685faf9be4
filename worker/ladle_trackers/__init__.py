"""Tells experiment trackers of a job: TensorBoard, MLflow, Weights & Biases, Trackio. docs/trackers.md.

What a job tells is the same for all: `telling.py` makes it of events and of the report. Each tracker is one file, which
imports its library when it is opened. Nothing here imports torch or the engine.
"""

from ladle_trackers.base import CannotTrack, Run, Tracker
from ladle_trackers.notebook import tracked
from ladle_trackers.registry import TRACKERS, open_tracker

__all__ = ["TRACKERS", "CannotTrack", "Run", "Tracker", "open_tracker", "tracked"]

"""Says what is in a folder of checkpoints, and what `average` would do with it, from headers alone."""

from ladle_engine.inspection.inspect import inspect
from ladle_engine.inspection.types import AutoPlan, InspectedCheckpoint, Inspection, Problem

__all__ = ["AutoPlan", "InspectedCheckpoint", "Inspection", "Problem", "inspect"]

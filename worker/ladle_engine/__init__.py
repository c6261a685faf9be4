"""Ladle's engine: a folder of checkpoints in, a better model out.

from ladle_engine import average

outcome = average("checkpoints", "val.npz", output="better-model")
"""

from ladle_engine.average import Outcome, average
from ladle_engine.checkpoints import check, discover
from ladle_engine.coefficients import Coefficients
from ladle_engine.combine import combine_checkpoints
from ladle_engine.convert import convert_checkpoints
from ladle_engine.curve import curve
from ladle_engine.errors import CheckpointError, DataError, EngineError, MethodError, OutputError, TaskError
from ladle_engine.inspection import Inspection, inspect
from ladle_engine.methods import METHODS
from ladle_engine.rebuild import candidate_state, rebuild

__all__ = [
    "METHODS",
    "CheckpointError",
    "Coefficients",
    "DataError",
    "EngineError",
    "Inspection",
    "MethodError",
    "Outcome",
    "OutputError",
    "TaskError",
    "average",
    "candidate_state",
    "check",
    "combine_checkpoints",
    "convert_checkpoints",
    "curve",
    "discover",
    "inspect",
    "rebuild",
]

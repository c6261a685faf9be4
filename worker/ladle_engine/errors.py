"""What can go wrong, as one tree.

EngineError            the input or the machine stops the job; `code` is stable, the message is for people
├── CheckpointError    the checkpoints: missing, too few, identical, corrupt, unsafe, mismatched, not finite
├── TaskError          the task or its model
├── DataError          the validation or training set
├── MethodError        the method or its options, or a loss that became NaN
└── OutputError        the result's folder: exists, or the disk is full
"""

from __future__ import annotations

from ladle_engine.safe_text import one_line


class EngineError(Exception):
    """Something about the input or the machine stops the job. Trying again would not help.

    Messages read: `` `field` must RULE, but is VALUE. `` and then what to do. They are one line: names of files and
    tensors come from strangers, and may hold anything.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        """One of `ladle_contracts.Reason`'s values (a test holds the two lists together)."""
        self.message = one_line(message)
        super().__init__(self.message)


class CheckpointError(EngineError):
    """The checkpoints cannot be averaged."""


class TaskError(EngineError):
    """The task is unknown, or its model does not take the checkpoints."""


class DataError(EngineError):
    """The validation or training set cannot be used."""


class MethodError(EngineError):
    """The method cannot run with these options, or its training failed."""


class OutputError(EngineError):
    """The result cannot be written."""

"""What can go wrong, as one tree.

EngineError            the input or the machine stops the job; `code` is stable, the message is for people
├── CheckpointError    the checkpoints: missing, too few, identical, corrupt, unsafe, mismatched, not finite
├── TaskError          the task or its model
├── DataError          the validation or training set
├── MethodError        the method or its options, or a loss that became NaN
└── OutputError        the result's folder: exists, or the disk is full
"""

from __future__ import annotations

import re

from ladle_engine.far_names import in_far_names
from ladle_report.safe_text import one_line

MAX_CHARS = 2_000
"""Of a message. A file of strangers may have a name of megabytes in it."""
LONG_WORD = re.compile(r"(\S{120})\S{81,}(\S{40})")


def shortened(text: str) -> str:
    """Cut in the middle of its long words or, where it has none, in its own."""
    if len(text) > MAX_CHARS:
        text = LONG_WORD.sub(r"\1...\2", text)
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 500]} ... {text[-490:]}"


class EngineError(Exception):
    """Something about the input or the machine stops the job. Trying again would not help.

    Messages read: `` `field` must RULE, but is VALUE. `` and then what to do. They are one line: names of files and
    tensors come from strangers, and may hold anything.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        """One of `ladle_contracts.Reason`'s values (a test holds the two lists together)."""
        self.message = one_line(shortened(in_far_names(message)))
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

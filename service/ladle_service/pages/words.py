"""How pages write times, numbers and names of ours."""

from __future__ import annotations

from datetime import UTC, datetime

from ladle_contracts.safe_text import for_terminal
from ladle_report.numbers import ago, rate, seconds, size, value_of

STAGES = {
    "fetch": "Fetch far files",
    "discover": "Find the checkpoints",
    "check": "Check the checkpoints",
    "evaluate": "Evaluate the checkpoints",
    "train": "Choose coefficients",
    "select": "Judge the candidates",
    "diagnose": "Diagnose",
    "write": "Write the model",
    "verify": "Verify the model",
    "upload": "Upload the result",
}
USUAL_STAGES = ("discover", "check", "evaluate", "train", "select", "write", "verify")


def moment(when: datetime) -> str:
    """`2026-01-31 12:00:00 UTC`"""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def visible(value: object) -> object:
    """What a page shows of any value. Text of strangers cannot hide or reorder what stands beside it."""
    return for_terminal(value) if type(value) is str else value


FILTERS = {"ago": ago, "moment": moment, "rate": rate, "seconds": seconds, "size": size, "value": value_of}

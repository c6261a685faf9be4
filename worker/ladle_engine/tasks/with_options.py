"""What every built-in task does with its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar

from ladle_engine.errors import TaskError
from ladle_engine.options import parse_options

Options = TypeVar("Options")


class WithOptions(Generic[Options]):
    """A part of a task: its options, parsed from a job's JSON, and the batch size that is one of them."""

    name: ClassVar[str]
    options_type: ClassVar[type]

    def __init__(self, options: Options | None = None) -> None:
        """The defaults of `options_type` where there are no options."""
        self.options: Options = self.options_type() if options is None else options
        self.batch_size: int = getattr(self.options, "batch_size")  # noqa: B009  # `Options` is any dataclass

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        owner = f"task `{cls.name}`"
        return cls(parse_options(cls.options_type, options, owner=owner, error=TaskError, code="invalid-task-options"))

"""What an image classifier takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ladle_engine.errors import TaskError


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """Raises `TaskError` (model-mismatch) for numbers that are none; a plug-in's come from a stranger's config."""

    channels: int
    num_classes: int
    class_ids: Mapping[str, int] | None
    """Class name -> label, where the model's config says."""

    def __post_init__(self) -> None:
        for name, value in (("channels", self.channels), ("classes", self.num_classes)):
            if type(value) is not int or value < 1:
                raise TaskError(
                    "model-mismatch",
                    f"The number of the model's {name} must be a whole number of at least 1, but is {value!r}. It "
                    f"comes from `config.json`.",
                )

"""Task options about the size and the colours of images, for every task with images."""

from __future__ import annotations

from dataclasses import dataclass

from ladle_engine.errors import TaskError
from ladle_engine.options import option
from ladle_engine.tasks.images.preprocessing import DEVIATIONS, MAX_SIDE, MEANS, all_within
from ladle_engine.tasks.images.processor import Overrides
from ladle_engine.tasks.tables.columns import TableOptions


@dataclass(frozen=True, kw_only=True)
class PreprocessingOptions(TableOptions):
    batch_size: int = option(128, "examples per batch, to train and to evaluate", at_least=1)
    image_size: int | None = option(
        None,
        "height and width of what the model gets; the processor's when absent",
        at_least=1,
        at_most=MAX_SIDE,
    )
    mean: list[float] | None = option(None, "per channel, subtracted; the processor's when absent")
    std: list[float] | None = option(None, "per channel, divided by; the processor's when absent")

    def check(self, owner: str) -> None:
        for name, values, bounds in (("mean", self.mean, MEANS), ("std", self.std, DEVIATIONS)):
            if values is not None and (not values or not all_within(values, bounds)):
                raise TaskError(
                    "invalid-task-options",
                    f"`{name}` of {owner} must be numbers from {bounds[0]:g} to {bounds[1]:g}, but is {values}.",
                )

    def overrides(self, channels: int) -> Overrides:
        """What stands in for the processor's own values. Raises `TaskError` for another number of channels."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != channels:
                raise TaskError(
                    "invalid-task-options",
                    f"`{name}` must have one number for each of {channels} channels, but is {values}.",
                )
        return Overrides(
            image_size=self.image_size,
            mean=None if self.mean is None else tuple(self.mean),
            std=None if self.std is None else tuple(self.std),
        )

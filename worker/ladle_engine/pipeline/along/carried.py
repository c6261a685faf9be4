"""Evaluations that go from one curve of a run to the next, on the way through this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ladle_engine.coefficients import Coefficients
from ladle_engine.errors import DataError
from ladle_engine.evaluation.cache import Evaluations, PassedOn
from ladle_engine.pipeline.along.earlier import Earlier
from ladle_engine.pipeline.along.keys import Keys
from ladle_engine.pipeline.along.schedule import Running
from ladle_engine.progress import ProgressCallback, Warned


@dataclass(kw_only=True)
class Carried:
    """Takes up what an earlier curve knows of the models at each point, and keeps what this one knows of them."""

    evaluations: Evaluations
    keys: Keys
    depends_on: Mapping[str, Any]
    earlier: Earlier | None
    models: dict[str, PassedOn] = field(default_factory=dict, init=False)
    """What this curve leaves to the next one, by the models' keys."""
    taken: int = field(default=0, init=False)
    """Of how many models something was known from the earlier curve alone."""

    def advance(self, index: int, shares: Mapping[Running, float]) -> None:
        """As `RunningAverages`."""
        self.keys.advance(index, shares)

    def take_up(self, tried: Sequence[Running | None], models: Sequence[Coefficients]) -> None:
        """Before anything of these is evaluated. Raises `DataError` (invalid-data)."""
        if self.earlier is None or self.differing:
            return
        for each, model in zip(tried, models, strict=True):
            if (known := self.earlier.models.get(self.keys.key(each, model))) is None:
                continue
            try:
                self.taken += self.evaluations.take_up(model, known)
            except ValueError as error:
                raise DataError(
                    "invalid-data",
                    f"`curve_earlier=` must be the result of an earlier curve as it was written, but in "
                    f"`{self.earlier.folder}` {error}.",
                ) from error

    def keep(self, tried: Sequence[Running | None], models: Sequence[Coefficients]) -> None:
        """Once these were compared."""
        for each, model in zip(tried, models, strict=True):
            self.models[self.keys.key(each, model)] = self.evaluations.known_of(model)

    @property
    def differing(self) -> list[str]:
        """What the earlier curve had otherwise, by its names; then none of its values is taken."""
        if self.earlier is None:
            return []
        before = self.earlier.depends_on
        return [name for name in {**before, **self.depends_on} if before.get(name) != self.depends_on.get(name)]

    def warn(self, on_event: ProgressCallback) -> None:
        """Where an earlier curve is of no use."""
        if self.earlier is not None and self.differing:
            names = ", ".join(f"`{name}`" for name in self.differing)
            on_event(
                Warned(
                    message=f"Nothing is taken from the earlier curve `{self.earlier.folder}`, for which this was "
                    f"otherwise: {names}. All is evaluated anew."
                )
            )

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        found: dict[str, Any] = {"models": len(self.models)}
        if self.earlier is not None:
            found["earlier"] = {"folder": str(self.earlier.folder), "models": self.taken}
        return found

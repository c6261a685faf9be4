"""One search: generation after generation, until the budget is used up or nothing better is found any more."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ladle_engine.coefficients import Coefficients
from ladle_engine.errors import MethodError
from ladle_engine.evaluation.heats import Heats
from ladle_engine.methods.search_spaces import Space
from ladle_engine.progress import Pace, ProgressCallback
from ladle_engine.resume_state import ResumeState
from ladle_engine.training.evolution import Evolution
from ladle_engine.training.path import CoefficientPath, Course, Ending

PATIENCE = 8
"""Generations in a row that find nothing better than what was found before."""


@dataclass(kw_only=True)
class SearchRun:
    """Its result is the best mean of a generation on the whole fit split: of many, the one that looks best is mostly
    lucky."""

    method: str
    heats: Heats
    space: Space
    evolution: Evolution
    population: int
    generations: int
    """At most."""
    coefficients: Callable[[Tensor], Coefficients]
    """Of float64 K x G."""
    state: ResumeState
    on_event: ProgressCallback
    best_KG: Tensor = field(init=False)
    key: tuple[float, float] = (-math.inf, -math.inf)
    """Of the best; see `Evaluation.rank_key`."""
    best_at: int = 0
    """The generation after which it was the mean; 0 is the start."""
    losses: list[float] = field(default_factory=list)
    """Of the start, and of the mean after every generation, on the whole fit split."""
    path: CoefficientPath = field(init=False)

    def __post_init__(self) -> None:
        self.path = CoefficientPath(total=1 + self.generations)

    def run(self) -> Course:
        """Collective. Raises `MethodError` where a mean's loss is not finite."""
        pace = Pace(self.on_event, "train", self.generations, method=self.method, unit="examples")
        if saved := self.state.load(self._key):
            self._resume(saved)
        else:
            self._see(self.space.weights(torch.zeros(self.space.numbers, dtype=torch.float64)))
        before = self.evolution.generation
        while self.evolution.generation < self.generations and self._is_hopeful:
            points_PN = self.evolution.ask()
            candidates = [self.coefficients(self.space.weights(point_N)) for point_N in points_PN]
            self.evolution.tell(points_PN, self.heats.order(candidates, self.evolution.generation))
            self._see(self.space.weights(self.evolution.mean))
            number = self.evolution.generation
            pace.step(
                number, self.losses[-1], amount=(number - before) * cost_of_generation(self.heats, self.population)
            )
            self._save()
        return Course(
            path=self.path,
            losses=self.losses,
            prior={"kind": "none"},
            ending=Ending(how="budget" if self._is_hopeful else "converged", best_at=self.best_at),
        )

    @property
    def _is_hopeful(self) -> bool:
        return self.evolution.generation - self.best_at < PATIENCE

    def _see(self, mean_KG: Tensor) -> None:
        number = self.evolution.generation
        known = self.heats.whole(self.coefficients(mean_KG))
        if known is None or not known.is_finite:
            raise MethodError(
                "non-finite-loss",
                f"The loss of method `{self.method}` must be finite, but after generation {number} of "
                f"{self.generations} that of the mean is {math.inf if known is None else known.loss}. A smaller `step` "
                f"may help.",
            )
        if (key := self.heats.rank_key(known)) > self.key:
            self.key, self.best_KG, self.best_at = key, mean_KG, number
        self.losses.append(known.loss)
        self.path.see(number, mean_KG)

    @property
    def _key(self) -> str:
        return f"train-{self.method}"

    def _save(self) -> None:
        """Kilobytes, after every generation, which is many evaluations."""
        self.state.save(
            self._key,
            {
                "evolution": self.evolution.state(),
                "path": self.path.state(),
                "best": self.best_KG,
                "key": list(self.key),
                "best_at": self.best_at,
                "losses": list(self.losses),
            },
        )

    def _resume(self, saved: Mapping[str, Any]) -> None:
        self.evolution.resume(saved["evolution"])
        self.path.resume(saved["path"])
        metric, loss = saved["key"]
        self.best_KG, self.key, self.best_at = saved["best"], (metric, loss), saved["best_at"]
        self.losses = list(saved["losses"])


def cost_of_generation(heats: Heats, population: int) -> int:
    """Evaluations of an example: of its candidates, and of its mean on the whole fit split."""
    return heats.cost(population) + heats.cost_of_whole

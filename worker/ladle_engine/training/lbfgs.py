"""L-BFGS on whole passes, without a learning rate."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from ladle_engine.progress import Pace
from ladle_engine.training.objective import Objective
from ladle_engine.training.path import Ending


class _PassesUsedUp(Exception):
    """Leaves a line search."""


@dataclass(frozen=True)
class _Point:
    """Where L-BFGS has been."""

    theta_MG: Tensor
    objective: float
    gradient_MG: Tensor
    number: int
    """Of the pass, counted from 0."""


def minimise(objective: Objective) -> Ending:
    """L-BFGS on the whole split, with a line search and so without a learning rate (P-BFGS of Li et al. 2022).

    A learned prior stays what it is at first: one gradient of all examples has no scatter to learn from. It ends with
    the best point seen when its passes are used up or nothing improves any more.
    """
    searches = _LineSearches(objective)
    best = searches.run()
    with torch.no_grad():
        objective.theta_MG.copy_(best.theta_MG)
    return Ending(how="converged" if searches.converged else "passes", best_at=best.number)


class _LineSearches:
    """One line search after the other; every pass over the examples that they ask for is made once."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._passes = objective.settings.steps
        self._optimiser = torch.optim.LBFGS(
            [objective.theta_MG],
            lr=1.0,
            max_iter=1,
            max_eval=self._passes,
            history_size=self._passes,
            line_search_fn="strong_wolfe",
        )
        self.converged = False
        self._known: list[_Point] = []
        """Every step of torch's begins with the point at which the line search before it ended: known already."""
        if saved := objective.resume(self._optimiser):
            self._known = [_Point(*point) for point in saved["known"]]
        self._pace = Pace(
            objective.trainer.on_event, "train", self._passes, method=objective.trainer.method, unit="steps"
        )

    def run(self) -> _Point:
        """Returns the best point."""
        objective, lowest = self._objective, math.inf
        try:
            while len(objective.losses) < self._passes:
                self._optimiser.step(self._closure)
                best = self._best()
                if not best.objective < lowest:
                    self.converged = True
                    break
                lowest = best.objective
                self._forget_all_but(best)
                if objective.trainer.state.is_due():
                    objective.save(self._optimiser, known=[astuple(point) for point in self._known])
        except _PassesUsedUp:
            pass
        return self._best()

    def _closure(self) -> Tensor:
        """What torch asks for: the objective at theta, and its gradient in `theta.grad`."""
        point = self._here() or self._measure()
        self._objective.theta_MG.grad = point.gradient_MG.clone()
        return torch.tensor(point.objective, dtype=torch.float64)

    def _here(self) -> _Point | None:
        return next((point for point in self._known if self._is_here(point)), None)

    def _is_here(self, point: _Point) -> bool:
        return torch.equal(point.theta_MG, self._objective.theta_MG)

    def _measure(self) -> _Point:
        """One pass over all examples."""
        objective = self._objective
        if len(objective.losses) >= self._passes:
            raise _PassesUsedUp
        number = len(objective.losses)
        measured = objective.measure(objective.trainer.examples.indices)
        point = _Point(objective.theta_MG.detach().clone(), measured.objective, measured.gradient_MG, number)
        self._known.append(point)
        self._pace.step(len(objective.losses), measured.loss)
        return point

    def _best(self) -> _Point:
        return min(self._known, key=lambda point: point.objective)

    def _forget_all_but(self, best: _Point) -> None:
        """The best may be another point of the line search than the one at which it ended: both are kept."""
        self._known = [point for point in self._known if point is best or self._is_here(point)]

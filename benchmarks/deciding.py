"""How a job decides among near neighbours: as Ladle does, or by evaluating every row on everything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from ladle_engine.evaluation import racing
from ladle_engine.evaluation.cache import Evaluations
from ladle_engine.methods import context
from ladle_engine.methods.greedy import GreedySoup

NOW, BEFORE = "kin", "everything"


class Counted(Evaluations):
    """On how many examples a job evaluated models."""

    newest: Evaluations

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        Counted.newest = self


def by_the_fit_split(soup: GreedySoup, job: context.MethodContext, K: int) -> list[int]:
    """The order of a greedy soup as it was before."""
    known = [job.evaluations.whole(job.one_checkpoint(i), "fit", job.metric) for i in range(K)]
    return sorted(range(K), key=lambda i: known[i].rank_key(job.metric), reverse=True)


@contextmanager
def deciding(how: str) -> Iterator[None]:
    with patch.object(context, "Evaluations", Counted):
        if how == NOW:
            yield
            return
        with (
            patch.object(racing, "KIN_SIGMAS", math.inf),
            patch.object(racing, "KIN_KEPT", 10**6),
            patch.object(GreedySoup, "_best_first", by_the_fit_split),
        ):
            yield

"""Ranks the candidates of a generation: all on a part of a split, the better half on twice as much, and so on.

Successive halving (Jamieson and Talwalkar 2016), within a generation: all that are compared are compared on the same
examples, which are drawn anew for each generation, so that no part of the split is the only one that counts.

Where every rank can place a model by itself, a heat's candidates are dealt to the ranks in turn, and each evaluates
whole ones; else the examples are dealt. The values are the same: what stands in a batch does not depend on the ranks.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ladle_engine.coefficients import Coefficients
from ladle_engine.distributed.agreement import together
from ladle_engine.distributed.collectives import Collectives, SingleProcess
from ladle_engine.errors import MethodError
from ladle_engine.evaluation.cache import FIRST_ROUND, in_rounds
from ladle_engine.evaluation.evaluate import Evaluation, evaluate
from ladle_engine.tasks.base import Metric
from ladle_engine.tasks.examples import Examples

Recomputed = Mapping[str, Tensor]
"""Statistics of one model's buffers."""


class Place(Protocol):
    """Fills the model; returns the statistics that were made for it, or those that it is given."""

    def __call__(self, coefficients: Coefficients, recomputed: Recomputed | None, *, alone: bool) -> Recomputed:
        """Collective, unless `alone`: then it is this rank's own affair."""
        ...


@dataclass(frozen=True, kw_only=True)
class Heats:
    """What candidates are ranked by, and on."""

    model: nn.Module
    place: Place
    examples: Examples
    metric: Metric
    share: float
    """Of the examples, which all candidates are evaluated on; of each set `FIRST_ROUND` at least, if it has so many."""
    seed: int
    collectives: Collectives
    each_places_alone: bool
    """Whether a rank can place a mixture without the others."""
    per_model: int = 0
    """Examples on which a model's statistics are made before it can be evaluated."""
    served_in: torch.dtype | None = None

    def sizes(self, count: int) -> list[tuple[int, list[int]]]:
        """How many of `count` candidates are in each heat, and how many examples of each set they are known on then."""
        of_sets = [len(positions) for _, positions in self.examples.positions_by_set()]
        part, left = max(self.share, min(1.0, max(FIRST_ROUND / size for size in of_sets))), count
        heats = [(left, _parts(of_sets, part))]
        while part < 1.0 and left > 2:
            part, left = min(2 * part, 1.0), -(-left // 2)
            heats.append((left, _parts(of_sets, part)))
        return heats

    def cost(self, count: int) -> int:
        """How many evaluations of an example a generation of so many takes."""
        heats = self.sizes(count)
        before = [0, *(sum(ends) for _, ends in heats[:-1])]
        return count * self.per_model + sum(
            left * (sum(ends) - known) for (left, ends), known in zip(heats, before, strict=True)
        )

    @property
    def cost_of_whole(self) -> int:
        """The same of one candidate on all examples."""
        return len(self.examples) + self.per_model

    def order(self, candidates: Sequence[Coefficients], generation: int) -> list[int]:
        """Collective: the candidates' indices, the best first. Who got further stands before whom a heat dropped."""
        heats = self.sizes(len(candidates))
        ends_by_set = [list(ends) for ends in zip(*(ends for _, ends in heats), strict=True)]
        drawn = in_rounds(self.examples, ends_by_set, _seed_of(self.seed, generation))
        known: dict[int, Evaluation | None] = {}
        kept: dict[int, Recomputed | None] = {}
        running, dropped, start = list(range(len(candidates))), list[int](), 0
        for left, ends in heats:
            dropped, running = running[left:] + dropped, running[:left]
            part = drawn.at(slice(start, sum(ends)))
            found = self._evaluated([candidates[i] for i in running], [kept.get(i) for i in running], part)
            for i, (more, recomputed) in zip(running, found, strict=True):
                before = known.get(i)
                known[i] = more if before is None or more is None else before.and_then(more)
                kept[i] = recomputed
            # Sorting is stable: of equals, the one that was ahead before, or that was drawn first.
            running.sort(key=lambda i: self.rank_key(known[i]), reverse=True)
            start = sum(ends)
        return running + dropped

    def rank_key(self, known: Evaluation | None) -> tuple[float, float]:
        """Larger is better; the least for what cannot be evaluated."""
        return (-math.inf, -math.inf) if known is None else known.rank_key(self.metric)

    def whole(self, candidate: Coefficients) -> Evaluation | None:
        """Collective: of one candidate, on all examples. None where it overflows the output's type."""
        [(known, _)] = self._in_turn([candidate], [None], self.examples, self.collectives)
        return known

    def _evaluated(
        self, candidates: Sequence[Coefficients], kept: Sequence[Recomputed | None], part: Examples
    ) -> list[tuple[Evaluation | None, Recomputed | None]]:
        """Collective."""
        size, rank = self.collectives.size, self.collectives.rank
        mixtures = all(candidate.single() is None for candidate in candidates)
        if size == 1 or not self.each_places_alone or len(candidates) < size or not mixtures:
            return self._in_turn(candidates, kept, part, self.collectives)
        own: list[tuple[Evaluation | None, Recomputed | None]] = []
        with together(self.collectives):
            own = self._in_turn(candidates[rank::size], kept[rank::size], part, SingleProcess())
        gathered = self._gathered([known for known, _ in own], part)
        # Whoever places models alone makes no statistics that are worth handing round.
        return [(gathered[i % size][i // size], None) for i in range(len(candidates))]

    def _in_turn(
        self,
        candidates: Sequence[Coefficients],
        kept: Sequence[Recomputed | None],
        part: Examples,
        ranks: Collectives,
    ) -> list[tuple[Evaluation | None, Recomputed | None]]:
        """Collective over `ranks`: one candidate after the other."""
        found: list[tuple[Evaluation | None, Recomputed | None]] = []
        for candidate, recomputed in zip(candidates, kept, strict=True):
            try:
                made = self.place(candidate, recomputed, alone=ranks is not self.collectives)
            except MethodError:
                found.append((None, None))
                continue
            known = evaluate(self.model, part, ranks, served_in=self.served_in)
            if self.metric.generated:
                written = evaluate(self.model, part, ranks, generated=True, served_in=self.served_in)
                known = known.beside(written)
            found.append((known, made or None))
        return found

    def _gathered(self, own: Sequence[Evaluation | None], part: Examples) -> list[list[Evaluation | None]]:
        """Collective: every rank's list."""
        buffer = io.BytesIO()
        torch.save([None if known is None else dict(known.values) for known in own], buffer)
        content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        size = self.collectives.size
        lengths = self.collectives.all_gather(torch.tensor([len(content)]), [1] * size).tolist()
        of_ranks = self.collectives.all_gather(content, lengths).split(lengths)
        return [
            [
                None if values is None else Evaluation(metrics=part.task.metrics, values=values, strata=part.strata)
                for values in torch.load(io.BytesIO(each.numpy().tobytes()), weights_only=True)
            ]
            for each in of_ranks
        ]


def _parts(of_sets: Sequence[int], part: float) -> list[int]:
    return [max(math.floor(part * size), 1) for size in of_sets]


def _seed_of(seed: int, generation: int) -> int:
    """A generation's own, far from that of any other job's seed."""
    return (seed * 1_000_003 + generation + 1) % 2**63

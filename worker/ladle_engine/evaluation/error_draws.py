"""Draws of the errors of many models' scores on the same examples, with their correlations.

Of a mean, by Gaussian multipliers: `sum_n xi_n (v_n - mean(v)) / N`. Of other metrics, by the bootstrap's samples of
the examples. N examples, B draws; columns are M models that are known on all examples, and P that are known on a part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle_engine.evaluation.bootstrap import num_samples, resampled_together
from ladle_engine.evaluation.evaluate import Evaluation
from ladle_engine.tasks.base import Metric

MOST_DRAWS = 2_000
FEWEST = 2
"""Examples of a set from which something is known of how a model varies there."""


@dataclass(frozen=True, kw_only=True)
class ErrorDraws:
    whole_BM: Tensor
    """float64."""
    parts_BP: Tensor
    """float64: of their difference to the first whole one, in its standard errors. One that is known on too little to
    tell is drawn apart from all others."""


def draw_errors(whole: Sequence[Evaluation], parts: Sequence[Evaluation], metric: Metric, seed: int) -> ErrorDraws:
    """`whole` are known on the same examples, `parts` on the first of them. Seeded."""
    is_known = torch.tensor([all(len(each) >= FEWEST for _, each in part.sets) for part in parts], dtype=torch.bool)
    known = [part for part, known in zip(parts, is_known.tolist(), strict=True) if known]
    whole_BM, known_BP = (_of_means if metric.of is None else _of_samples)(whole, known, metric, seed)
    apart = torch.Generator().manual_seed(seed + 1)
    parts_BP = torch.randn(len(whole_BM), len(parts), generator=apart, dtype=torch.float64)
    spread_P = known_BP.square().mean(dim=0).sqrt()
    parts_BP[:, is_known] = torch.where(spread_P > 0, known_BP / spread_P, parts_BP[:, is_known])
    return ErrorDraws(whole_BM=whole_BM, parts_BP=parts_BP)


def added_up(evaluation: Evaluation, name: str, sizes: Sequence[int]) -> list[Tensor]:
    """The weighted values of each set; those of sets of one size added up example by example, as far as all are known.

    They may be versions of the same examples, whose errors do not cancel out. `sizes` are those of the whole sets.
    """
    rows = [weight * part.values[name] for weight, part in evaluation.sets]
    together = [[each for each, own in zip(rows, sizes, strict=True) if own == size] for size in dict.fromkeys(sizes)]
    return [torch.stack([each[: min(map(len, group))] for each in group]).sum(dim=0) for group in together]


def set_sizes(evaluation: Evaluation) -> list[int]:
    return [len(part) for _, part in evaluation.sets]


def centred(rows: Sequence[Tensor]) -> list[Tensor]:
    """Without their means, and so that the sum of all squares is the variance of the sum of the means."""
    return [(each - each.mean()) / math.sqrt(len(each) * (len(each) - 1)) for each in rows]


def _of_means(
    whole: Sequence[Evaluation], parts: Sequence[Evaluation], metric: Metric, seed: int
) -> tuple[Tensor, Tensor]:
    sizes = set_sizes(whole[0])
    bar = added_up(whole[0], metric.name, sizes)
    columns = [torch.cat(centred(added_up(each, metric.name, sizes))) for each in whole]
    for part in parts:
        rows = added_up(part, metric.name, sizes)
        differences = centred([own - others[: len(own)] for own, others in zip(rows, bar, strict=True)])
        columns.append(torch.cat([_filled(each, len(others)) for each, others in zip(differences, bar, strict=True)]))
    drawn = multiplied(torch.stack(columns, dim=1), MOST_DRAWS, seed)
    return drawn[:, : len(whole)], drawn[:, len(whole) :]


def _filled(values: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, size - len(values)))


def multiplied(columns_NM: Tensor, number: int, seed: int) -> Tensor:
    """float64 [B, M]: sums of the rows, each times a standard normal number of its own."""
    generator = torch.Generator().manual_seed(seed)
    # A factor of the covariance has M rows: as many multipliers do, where there are more examples.
    if len(columns_NM) > columns_NM.shape[1]:
        columns_NM = torch.linalg.qr(columns_NM, mode="r").R
    return torch.randn(number, len(columns_NM), generator=generator, dtype=columns_NM.dtype) @ columns_NM


def _of_samples(
    whole: Sequence[Evaluation], parts: Sequence[Evaluation], metric: Metric, seed: int
) -> tuple[Tensor, Tensor]:
    number = min(MOST_DRAWS, num_samples(len(whole[0])))
    drawn_BM = resampled_together(whole, metric, seed, number)
    whole_BM = drawn_BM - torch.tensor([each.score(metric) for each in whole], dtype=torch.float64)
    known_BP = whole_BM.new_zeros(number, len(parts))
    for size in {len(part) for part in parts}:
        alike = [index for index, part in enumerate(parts) if len(part) == size]
        bar_and_parts = [whole[0].first(size), *(parts[index] for index in alike)]
        sampled_BP = resampled_together(bar_and_parts, metric, seed, number)
        differences_BP = sampled_BP[:, 1:] - sampled_BP[:, :1]
        known_BP[:, alike] = differences_BP - differences_BP.mean(dim=0)
    return whole_BM, known_BP

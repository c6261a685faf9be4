"""Model Stock: between the base and the mean, by layer, as far as the angles between checkpoints say.

Shape suffixes: K checkpoints, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ladle_engine.methods.base import FixedMethod
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.model.groups import HELP, Grouping, Groups, group
from ladle_engine.options import option
from ladle_engine.subspace.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class ModelStockOptions:
    groups: Grouping = option("layers", HELP)


class ModelStock(FixedMethod):
    """Nothing is judged: the ratio is in closed form."""

    name: ClassVar[str] = "model-stock"
    summary: ClassVar[str] = (
        "Between the base and the mean of the fine-tunes, layer by layer, by the angles between them. Needs `base`."
    )
    formula: ClassVar[tuple[str, ...]] = (
        "t = (K cos theta) / (1 + (K - 1) cos theta)",
        "alpha_i = t/K",
        "alpha_0 = 1 - t",
    )
    reference: ClassVar[str] = "Jang et al. 2024, Model Stock, section 4 and the appendix for K models"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2403.19522"
    options_type: ClassVar[type] = ModelStockOptions
    combines_checkpoints: ClassVar[bool] = False

    def uses_base(self, options: ModelStockOptions) -> bool:
        return True

    def grouping(self, options: ModelStockOptions) -> Grouping:
        return options.groups

    def choose(self, context: MethodContext, options: ModelStockOptions) -> Choice:
        K = len(context.checkpoints.names)
        groups = group(context.binding, options.groups)
        ratio_G = ratios(context.geometry, groups)
        low, high = float(ratio_G.min()), float(ratio_G.max())
        told = f"ratio {low:.2f}" if len(groups) == 1 else f"ratios {low:.2f} to {high:.2f}"
        return Choice(
            coefficients=context.coefficients_with_base(1 - ratio_G, (ratio_G / K).repeat(K, 1), groups),
            label=f"{self.name} ({told})",
        )


def ratios(geometry: Geometry, groups: Groups) -> Tensor:
    """`t`, float64 [G]: the share of the mean. `cos theta` is the mean over all pairs of checkpoints, seen from the
    base.

    Where it is negative, the checkpoints have nothing in common there, and the ratio is 0. A group in which no
    checkpoint has moved has the ratio 1.
    """
    gram_GKK = geometry.gram_from_base_GKK(groups)
    K = gram_GKK.shape[1]
    lengths_GK = gram_GKK.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    product_GKK = lengths_GK[:, :, None] * lengths_GK[:, None, :]
    cosines_GKK = torch.where(product_GKK > 0, gram_GKK / product_GKK.where(product_GKK > 0, 1.0), 0.0)
    off_diagonal_G = cosines_GKK.sum(dim=(1, 2)) - cosines_GKK.diagonal(dim1=1, dim2=2).sum(dim=1)
    cosine_G = (off_diagonal_G / (K * (K - 1))).clamp(min=0, max=1)
    ratio_G = K * cosine_G / (1 + (K - 1) * cosine_G)
    return torch.where(lengths_GK.amax(dim=1) > 0, ratio_G, 1.0)

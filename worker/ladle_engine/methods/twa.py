"""Trainable Weight Averaging and its kin: coefficients of the checkpoints trained in one basis or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ladle_engine.errors import MethodError
from ladle_engine.methods.base import TrainedMethod
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.methods.starts import never_below_start, start_of
from ladle_engine.methods.trained import (
    MAX_PRIOR,
    MIN_PRIOR,
    PRIOR_HELP,
    TrainedOptions,
    as_choice,
    rescaled,
    rest_of,
    trainer_for,
)
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import HELP, Grouping, Groups, group
from ladle_engine.options import option
from ladle_engine.subspace.bases import BASES, Convex, Layered, Linear, MakeBasis, gram_schmidt, principal
from ladle_engine.training.train import train

TWA_PAPER = "https://arxiv.org/abs/2205.13104"


@dataclass(frozen=True, kw_only=True)
class SubspaceOptions(TrainedOptions):
    shared: bool = option(True, "with several groups: also train coefficients that all groups share")
    rescale: bool = option(
        True, "let the select split pick how far to go: from the start, and for each group from the mean of all groups"
    )


@dataclass(frozen=True, kw_only=True)
class TwaOptions(SubspaceOptions):
    basis: str = option(
        "axes",
        "all span the same space: principal axes of the checkpoints; directions of equal length, as published; "
        "directions as they are; or orthogonal directions",
        one_of=tuple(BASES),
    )


@dataclass(frozen=True, kw_only=True)
class LayerwiseOptions(TwaOptions):
    groups: Grouping = option("layers", HELP)
    ramp: float | None = option(
        None,
        "start, and expect, the first layer at this share of the way from the base, the last at all of it, and those "
        "between in proportion (LiNeS); needs `base`",
        at_least=0.0,
        at_most=1.0,
    )


@dataclass(frozen=True, kw_only=True)
class PrincipalOptions(SubspaceOptions):
    dimensions: int | None = option(None, "how many principal components; all by default", at_least=1)


@dataclass(frozen=True, kw_only=True)
class LearnedSoupOptions(TrainedOptions):
    prior: float | str | None = option(None, PRIOR_HELP, at_least=MIN_PRIOR, at_most=MAX_PRIOR)


class Twa(TrainedMethod):
    name: ClassVar[str] = "twa"
    summary: ClassVar[str] = "Trains one coefficient per checkpoint by gradient descent, starting at the mean."
    formula: ClassVar[tuple[str, ...]] = (
        "w = c + sum_i u_i (w_i - c)",
        "u = M theta",
        "alpha_i = u_i + (1 - sum_j u_j)/K",
    )
    reference: ClassVar[str] = "Li et al. 2023, Trainable Weight Averaging, eqs. 3-7 and Algorithm 1"
    reference_url: ClassVar[str] = TWA_PAPER
    options_type: ClassVar[type] = TwaOptions

    def basis(self, options: Any) -> MakeBasis:
        """`options` are of the method's own type."""
        return BASES[options.basis]

    def start(self, context: MethodContext, options: Any, groups: Groups) -> Tensor:
        """Collective: float64 K x G, around which the prior lies."""
        return start_of(context, self.name, options.start, groups)

    def choose(self, context: MethodContext, options: SubspaceOptions) -> Choice:
        groups = group(context.binding, options.groups)
        subspace = self._subspace(context, options, groups)
        trainer = trainer_for(context, self.name, groups, base_G=rest_of(subspace.alpha_0_KG))
        trained = train(trainer, subspace, options.settings(context.seed, trainer.batches_per_pass))
        if options.rescale:
            return rescaled(context, self.name, groups, options.start, subspace.alpha_0_KG, trained)
        return never_below_start(context, options.start, as_choice(context, self.name, groups, trained))

    def _subspace(self, context: MethodContext, options: SubspaceOptions, groups: Groups) -> Linear | Layered:
        make_basis = self.basis(options)
        alpha_0_KG = self.start(context, options, groups)
        device = context.fit.device
        own = make_basis(context.geometry, groups).on(device)
        if len(groups) == 1 or not options.shared:
            return Linear(alpha_0_KG=alpha_0_KG, basis=own)
        shared = make_basis(context.geometry, context.whole_model()).on(device)
        return Layered(alpha_0_KG=alpha_0_KG, shared=shared, own=own)


class TwaLayerwise(Twa):
    name: ClassVar[str] = "twa-layerwise"
    summary: ClassVar[str] = "TWA with one coefficient per checkpoint and layer."
    formula: ClassVar[tuple[str, ...]] = (
        "w^((g)) = c^((g)) + sum_i u_(i g) (w_i^((g)) - c^((g)))",
        "alpha_(i g) = u_(i g) + (1 - sum_j u_(j g))/K",
    )
    reference: ClassVar[str] = "Li et al. 2023, Trainable Weight Averaging, section 4.3"
    options_type: ClassVar[type] = LayerwiseOptions

    def uses_base(self, options: LayerwiseOptions) -> bool:
        return options.ramp is not None

    def check(self, options: LayerwiseOptions, binding: Binding, checkpoint_names: Sequence[str]) -> None:
        if options.ramp is not None and len(group(binding, options.groups)) == 1:
            raise MethodError(
                "invalid-method-options",
                f"`ramp` of method `{self.name}` must be left out with a single group, which has no depth, but is "
                f"{options.ramp}.",
            )

    def start(self, context: MethodContext, options: LayerwiseOptions, groups: Groups) -> Tensor:
        alpha_0_KG = super().start(context, options, groups)
        return alpha_0_KG if options.ramp is None else alpha_0_KG * depth_ramp(options.ramp, len(groups))


class TwaGramSchmidt(Twa):
    name: ClassVar[str] = "twa-gram-schmidt"
    summary: ClassVar[str] = "TWA in an orthogonal basis of the checkpoints, in their order."
    formula: ClassVar[tuple[str, ...]] = (
        "w = c + sum_i u_i e_i",
        "v_i = w_i - c - sum_(j < i) <w_i - c, e_j> e_j",
        "e_i = v_i / |v_i|",
    )
    reference: ClassVar[str] = (
        "Li et al. 2023 (ICLR), Trainable Weight Averaging, Algorithm 1: Schmidt orthogonalisation"
    )
    reference_url: ClassVar[str] = "https://openreview.net/forum?id=8wbnpOJY-f"
    options_type: ClassVar[type] = SubspaceOptions

    def basis(self, options: SubspaceOptions) -> MakeBasis:
        return gram_schmidt


class PcaSubspace(Twa):
    name: ClassVar[str] = "pca"
    summary: ClassVar[str] = "Trains in the top principal components of the checkpoints."
    formula: ClassVar[tuple[str, ...]] = (
        "G_(i j) = <w_i - c, w_j - c>",
        "G = V diag(lambda) V^T",
        "u = d V_m diag(lambda_m)^(-1/2) theta",
    )
    reference: ClassVar[str] = "Li et al. 2022, Low Dimensional Trajectory Hypothesis is True (DLDR)"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2103.11154"
    options_type: ClassVar[type] = PrincipalOptions

    def basis(self, options: PrincipalOptions) -> MakeBasis:
        return lambda geometry, groups: principal(geometry, groups, options.dimensions)

    def check(self, options: PrincipalOptions, binding: Binding, checkpoint_names: Sequence[str]) -> None:
        most = len(checkpoint_names) - 1
        if options.dimensions is not None and options.dimensions > most:
            raise MethodError(
                "invalid-method-options",
                f"`dimensions` of method `{self.name}` must be at most one less than the number of checkpoints "
                f"({most}), but is {options.dimensions}.",
            )


def depth_ramp(first: float, count: int) -> Tensor:
    """float64 [G]: `alpha + beta (l - 1)/(L - 1)` for layer l of L, from `first` to 1 (Wang et al. 2024, LiNeS)."""
    return torch.linspace(first, 1.0, count, dtype=torch.float64)


class LearnedSoup(TrainedMethod):
    name: ClassVar[str] = "learned-soup"
    summary: ClassVar[str] = "Trains convex coefficients: a softmax, so none is negative."
    formula: ClassVar[tuple[str, ...]] = ("alpha_i = e^(theta_i) / (sum_j e^(theta_j))",)
    reference: ClassVar[str] = "Wortsman et al. 2022, Model soups, appendix: learned soup"
    reference_url: ClassVar[str] = "https://arxiv.org/abs/2203.05482"
    options_type: ClassVar[type] = LearnedSoupOptions

    def choose(self, context: MethodContext, options: LearnedSoupOptions) -> Choice:
        groups = group(context.binding, options.groups)
        alpha_0_KG = start_of(context, self.name, options.start, groups, none_negative=True)
        if float(alpha_0_KG.min()) < 0:
            raise MethodError(
                "invalid-method-options",
                f"`start` of method `{self.name}` must not have negative coefficients, but `{options.start}` has "
                f"{float(alpha_0_KG.min()):.3g}.",
            )
        subspace = Convex(alpha_0_KG=alpha_0_KG)
        trainer = trainer_for(context, self.name, groups)
        trained = train(trainer, subspace, options.settings(context.seed, trainer.batches_per_pass))
        choice = as_choice(context, self.name, groups, trained)
        return never_below_start(context, options.start, choice, none_negative=True)

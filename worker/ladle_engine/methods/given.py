"""Coefficients that the user gives."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ladle_engine.coefficients import SUM_TOLERANCE, Coefficients
from ladle_engine.errors import MethodError
from ladle_engine.methods.base import FixedMethod
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import HELP, Grouping, Groups, group
from ladle_engine.options import option
from ladle_engine.progress import Warned


@dataclass(frozen=True, kw_only=True)
class GivenOptions:
    coefficients: list[float] | list[list[float]] | dict[str, float] = option(
        [], "one number per checkpoint, in order or by name; with several groups, one such list per group"
    )
    any_sum: bool = option(False, "accept coefficients that do not sum to 1")
    groups: Grouping = option("model", HELP)


class Given(FixedMethod):
    name: ClassVar[str] = "given"
    summary: ClassVar[str] = "Takes the coefficients that you give."
    formula: ClassVar[tuple[str, ...]] = ("w = sum_i alpha_i w_i",)
    reference: ClassVar[str] = "a weighted average, as mergekit's `linear`"
    reference_url: ClassVar[str] = "https://github.com/arcee-ai/mergekit"
    options_type: ClassVar[type] = GivenOptions

    def grouping(self, options: GivenOptions) -> Grouping:
        return options.groups

    def check(self, options: GivenOptions, binding: Binding, checkpoint_names: Sequence[str]) -> None:
        groups = group(binding, options.groups)
        wrong = _wrong_sum(_as_matrix(options.coefficients, tuple(checkpoint_names), groups.names), groups)
        if wrong is not None and not options.any_sum:
            total, where = wrong
            raise _invalid(f"sum to 1{where}, unless `any_sum` is true", f"{total:.7g} in sum")

    def choose(self, context: MethodContext, options: GivenOptions) -> Choice:
        groups = group(context.binding, options.groups)
        names = context.checkpoints.names
        alpha_KG = _as_matrix(options.coefficients, names, groups.names)
        label = self.name
        if wrong := _wrong_sum(alpha_KG, groups):
            total, where = wrong
            context.on_event(
                Warned(message=f"The given coefficients sum to {total:.7g}{where}: the result is not an average.")
            )
            label = f"{self.name} (sum {total:.4g})"
        return Choice(
            coefficients=Coefficients(checkpoints=names, groups=groups.names, group_of=groups.of, alpha_KG=alpha_KG),
            label=label,
        )


def _wrong_sum(alpha_KG: Tensor, groups: Groups) -> tuple[float, str] | None:
    """The first one that is not 1, and in which group."""
    sums_G = alpha_KG.sum(dim=0).tolist()
    for name, total in zip(groups.names, sums_G, strict=True):
        if abs(total - 1.0) > SUM_TOLERANCE:
            return total, f" in group `{name}`" if len(groups) > 1 else ""
    return None


def _as_matrix(given: Any, names: tuple[str, ...], groups: tuple[str, ...]) -> Tensor:
    """float64 K x G."""
    K, G = len(names), len(groups)
    if isinstance(given, dict):
        unknown = [name for name in given if name not in names]
        missing = [name for name in names if name not in given]
        if unknown or missing:
            raise _invalid(
                f"name each of the {K} checkpoints",
                f"also for `{unknown[0]}`, which is not one of {', '.join(names[:8])}"
                if unknown
                else f"without `{missing[0]}`",
            )
        given = [given[name] for name in names]
    rows = given if given and isinstance(given[0], list) else [given] * G
    if len(rows) != G or any(not isinstance(row, list) or len(row) != K for row in rows):
        shape = f"{len(rows)} x {sorted({len(row) if isinstance(row, list) else 1 for row in rows})}"
        wanted = f"{K} numbers, one per checkpoint" if G == 1 else f"{K} numbers, or {G} lists of {K}, one per group"
        raise _invalid(f"be {wanted}", f"{len(given)} numbers" if rows[0] is given else f"of the shape {shape}")
    numbers = [number for row in rows for number in row]
    if too_large := [number for number in numbers if not abs(number) <= sys.float_info.max]:
        raise _invalid("be finite numbers that float64 can hold", str(too_large[0])[:20])
    return torch.tensor(rows, dtype=torch.float64).T.contiguous()


def _invalid(rule: str, value: str) -> MethodError:
    return MethodError("invalid-method-options", f"`coefficients` of method `given` must {rule}, but are {value}.")

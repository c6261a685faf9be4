"""Coefficients by a search without gradients (CMA-ES), against whatever metric judges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from ladle_engine.coefficients import Coefficients
from ladle_engine.errors import MethodError
from ladle_engine.evaluation.heats import Heats
from ladle_engine.methods.base import TrainedMethod
from ladle_engine.methods.context import Choice, MethodContext, served_in
from ladle_engine.methods.search_run import SearchRun, cost_of_generation
from ladle_engine.methods.search_spaces import Axes, OfProfile, Space
from ladle_engine.methods.starts import CENTRE, PICKED, START_HELP, pick_start, start_of
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import HELP, Grouping, Groups, group, whole_model
from ladle_engine.options import option
from ladle_engine.profiles import positions_of
from ladle_engine.subspace.bases import Layered, Linear, principal_axes
from ladle_engine.training.evolution import Evolution, usual_population

PROFILE, AXES, GROUPS = "profile", "axes", "groups"
MOST_NUMBERS = 512
"""A covariance matrix of more is slow to decompose, and no budget that a metric without a gradient allows learns it."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    over: str = option(
        AXES,
        "what is searched: profile (three numbers: window, shape and end), axes (the checkpoints' principal axes, of "
        "the whole model) or groups (the same, and the axes of each group besides)",
        one_of=(PROFILE, AXES, GROUPS),
    )
    budget: float = option(100.0, "at most so many evaluations of the whole fit split", above=0.0)
    share: float = option(
        0.25,
        "of the fit split, on which all candidates of a generation are evaluated; the better half is on twice as much, "
        "and so on",
        above=0.0,
        at_most=1.0,
    )
    population: int | None = option(
        None, "candidates of a generation; by default 4 + 3 ln N for N numbers", at_least=4, at_most=4096
    )
    step: float = option(
        0.5, "how far from the start the first candidates lie: 1 is as far as training is expected to go", above=0.0
    )
    dimensions: int = option(16, "for `axes` and `groups`: at most so many axes, and of each group", at_least=1)
    start: str = option(CENTRE, START_HELP)
    groups: Grouping = option("layers", f"for `groups`: {HELP}")

    def check(self, owner: str) -> None:
        """Raises `MethodError` for what would be ignored."""
        ignored = {PROFILE: ("dimensions", "start", "groups"), AXES: ("groups",), GROUPS: ()}[self.over]
        for each in fields(self):
            if each.name in ignored and (value := getattr(self, each.name)) != each.default:
                raise MethodError(
                    "invalid-method-options",
                    f"`{each.name}` of {owner} must be left out with `over: {self.over}`, which does not use it, but "
                    f"is {value!r}.",
                )


class Search(TrainedMethod):
    name: ClassVar[str] = "search"
    summary: ClassVar[str] = (
        "Searches coefficients without gradients (CMA-ES), by the metric that judges, on the fit split. `auto` does "
        "not run it."
    )
    formula: ClassVar[tuple[str, ...]] = (
        "z ~ N(m, sigma^2 C)",
        "alpha = alpha_0 + V theta",
        "theta_m = 0.3 z_m (lambda_m / mean(lambda))^(-1/4)",
    )
    reference: ClassVar[str] = (
        "Hansen 2016, The CMA Evolution Strategy: A Tutorial; library: Nomura and Shibata's cmaes"
    )
    reference_url: ClassVar[str] = "https://arxiv.org/abs/1604.00772"
    options_type: ClassVar[type] = SearchOptions

    def goes_by_order(self, options: SearchOptions) -> bool:
        return options.over == PROFILE

    def grouping(self, options: SearchOptions) -> Grouping:
        return options.groups if options.over == GROUPS else "model"

    def check(self, options: SearchOptions, binding: Binding, checkpoint_names: Sequence[str]) -> None:
        if options.over == PROFILE:
            return
        axes = min(options.dimensions, max(len(checkpoint_names) - 1, 1))
        G = len(group(binding, self.grouping(options)))
        numbers = axes if G == 1 else axes * (G + 1)
        if numbers > MOST_NUMBERS:
            raise _invalid(
                "`dimensions` or `groups`",
                f"leave at most {MOST_NUMBERS} numbers to search",
                f"leave {numbers}: {axes} axes of the whole model and of each of {G} groups",
            )

    def choose(self, context: MethodContext, options: SearchOptions) -> Choice:
        K = len(context.checkpoints.names)
        if K < 2:
            raise MethodError(
                "too-few-checkpoints", f"Method `{self.name}` must have at least 2 checkpoints, but there is only {K}."
            )
        groups = group(context.binding, self.grouping(options))
        space = self._space(context, options, groups)
        # Before any rank places a model alone: opening it is collective.
        context.weights.placement(groups)
        heats = _heats(context, options.share)
        population = options.population or usual_population(space.numbers)
        run = SearchRun(
            method=self.name,
            heats=heats,
            space=space,
            evolution=Evolution(
                space.numbers, options.step / space.numbers**0.5, population, context.seed, context.collectives
            ),
            population=population,
            generations=_generations(options.budget, heats, population),
            coefficients=lambda alpha_KG: Coefficients(
                checkpoints=context.checkpoints.names, groups=groups.names, group_of=groups.of, alpha_KG=alpha_KG
            ),
            state=context.state,
            on_event=context.on_event,
        )
        course = run.run()
        over = options.over if options.over != GROUPS else f"{len(groups)} groups"
        choice = Choice(
            coefficients=run.coefficients(run.best_KG),
            label=f"{self.name} ({over}, generation {run.best_at} of {len(run.losses) - 1})",
            losses=run.losses,
            course=course.to_json(groups.names),
        )
        if options.start != PICKED:
            return choice
        # The start is the first of the means, so what is searched from it is never worse by what judges.
        return replace(choice, details=pick_start(context).to_json(fell_back=run.best_at == 0))

    def _space(self, context: MethodContext, options: SearchOptions, groups: Groups) -> Space:
        if options.over == PROFILE:
            return OfProfile(positions=positions_of(context.checkpoints.known_steps))
        alpha_0_KG = start_of(context, self.name, options.start, groups)
        own = principal_axes(context.geometry, groups)
        if len(groups) == 1:
            return Axes(Linear(alpha_0_KG=alpha_0_KG, basis=own), options.dimensions)
        shared = principal_axes(context.geometry, whole_model(context.binding))
        return Axes(Layered(alpha_0_KG=alpha_0_KG, shared=shared, own=own), options.dimensions)


def _heats(context: MethodContext, share: float) -> Heats:
    return Heats(
        model=context.binding.model,
        place=lambda coefficients, recomputed, *, alone: context.load_weights(coefficients, recomputed, alone=alone),
        examples=context.fit,
        metric=context.metric,
        share=share,
        seed=context.seed,
        collectives=context.collectives,
        each_places_alone=context.each_places_alone,
        per_model=context.statistics.examples if context.statistics.is_recomputed else 0,
        served_in=served_in(context.output_dtypes, context.fit.device),
    )


def _generations(budget: float, heats: Heats, population: int) -> int:
    """How many a budget of so many evaluations of the whole split holds. Raises `MethodError` where it holds none."""
    start, each = heats.cost_of_whole, cost_of_generation(heats, population)
    generations = (int(budget * len(heats.examples)) - start) // each
    if generations < 1:
        least = (start + each) / len(heats.examples)
        raise _invalid(
            "`budget`",
            f"be at least {math.ceil(100 * least) / 100:g}, for the start and a generation of {population} candidates",
            f"is {budget:g}",
        )
    return generations


def _invalid(what: str, rule: str, value: str) -> MethodError:
    return MethodError("invalid-method-options", f"{what} of method `{Search.name}` must {rule}, but {value}.")

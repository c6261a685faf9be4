"""What all methods with trained coefficients share: their options, where they start, and the training itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from torch import Tensor

from ladle_engine.coefficients import SUM_TOLERANCE, Coefficients
from ladle_engine.errors import MethodError
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.methods.starts import CENTRE, PICKED, START_HELP, pick_start
from ladle_engine.model.groups import HELP, Grouping, Groups
from ladle_engine.options import option
from ladle_engine.placements.base import Placement
from ladle_engine.placements.base_row import OnBase
from ladle_engine.subspace.prior import LEARNED
from ladle_engine.training.settings import OPTIMISERS, SCHEDULES, TrainSettings
from ladle_engine.training.train import Trained
from ladle_engine.training.trainer import Trainer

PRIOR_HELP = (
    f"how far from the start coefficients are expected, in directions' lengths: a number (smaller pulls back harder), "
    f"`{LEARNED}` from the data, or null for no prior"
)

MIN_PRIOR, MAX_PRIOR = 1e-6, 1e6
"""Beyond it a variance is 0 or infinite in float32, or as good as that."""

SHARE_OF_PASS, FEWEST_STEPS, MOST_STEPS = 2 / 3, 40, 100
"""Where examples are many, coefficients can be told apart that few examples cannot: it is worth more steps."""

IGNORED_BY = {
    "adamw": ("momentum", "passes"),
    "sgd": ("passes",),
    "lbfgs": ("steps", "learning_rate", "momentum", "schedule", "warmup_fraction", "speed_up", "averaged_fraction"),
}
"""Options that an optimiser has no use for."""


@dataclass(frozen=True, kw_only=True)
class TrainedOptions:
    """Rates, radii and priors are in units of the directions' lengths, so they fit every model."""

    steps: int | None = option(
        None,
        f"training steps, each on one batch; by default two thirds of a pass over the examples, but at least "
        f"{FEWEST_STEPS} and at most {MOST_STEPS}",
        at_least=1,
    )
    passes: int = option(6, "for `lbfgs`, instead of `steps`: passes over all examples", at_least=2)
    learning_rate: float = option(0.1, "step size of the coefficients, as a share of the directions' length", above=0.0)
    optimiser: str = option("adamw", "adamw, sgd (with momentum) or lbfgs (needs no learning rate)", one_of=OPTIMISERS)
    momentum: float = option(0.9, "for `sgd`", at_least=0.0, at_most=0.9999)
    schedule: str = option(
        "constant", "of the learning rate, after the warm-up: cosine, linear, constant or step", one_of=SCHEDULES
    )
    warmup_fraction: float = option(
        0.0, "share of the steps in which the learning rate rises", at_least=0.0, at_most=1.0
    )
    speed_up: float = option(
        1.0, "multiplies the learning rate and divides the steps (the paper's scaled schedule)", at_least=1.0
    )
    averaged_fraction: float = option(
        0.5, "the result is the mean over this share of the steps, at the end", at_least=0.0, at_most=1.0
    )
    prior: float | str | None = option(LEARNED, PRIOR_HELP, at_least=MIN_PRIOR, at_most=MAX_PRIOR)
    l2: float = option(
        0.0, "the paper's lambda: adds l2/2 times the squared coefficients to the loss", at_least=0.0, at_most=1e6
    )
    sam_radius: float = option(
        0.0,
        "sharpness-aware minimisation (SAM): takes the gradient this far uphill, in directions' lengths",
        at_least=0.0,
        at_most=1e6,
    )
    start: str = option(CENTRE, START_HELP)
    groups: Grouping = option("model", HELP)

    def check(self, owner: str) -> None:
        """Raises `MethodError` for a prior that is a word but not `learned`, and for what would be ignored."""
        if isinstance(self.prior, str) and self.prior != LEARNED:
            raise MethodError(
                "invalid-method-options",
                f"`prior` of {owner} must be a number, null or `{LEARNED}`, but is `{self.prior}`.",
            )
        self.refuse_others(IGNORED_BY[self.optimiser], owner, f"`optimiser: {self.optimiser}`, which does not use it")

    def refuse_others(self, ignored: Sequence[str], owner: str, why: str) -> None:
        """Raises `MethodError` where an option that would be ignored is not what it is by default."""
        for each in fields(self):
            if each.name in ignored and (value := getattr(self, each.name)) != each.default:
                raise MethodError(
                    "invalid-method-options", f"`{each.name}` of {owner} must be left out with {why}, but is {value!r}."
                )

    def settings(self, seed: int, per_pass: int) -> TrainSettings:
        """`per_pass` is how many batches a pass over the examples has."""
        steps = self.steps or min(max(round(SHARE_OF_PASS * per_pass), FEWEST_STEPS), MOST_STEPS)
        return TrainSettings(
            steps=self.passes if self.optimiser == "lbfgs" else max(round(steps / self.speed_up), 1),
            learning_rate=self.learning_rate * self.speed_up,
            optimiser=self.optimiser,
            momentum=self.momentum,
            schedule=self.schedule,
            warmup_fraction=self.warmup_fraction,
            averaged_fraction=self.averaged_fraction,
            prior=self.prior,
            l2=self.l2,
            sam_radius=self.sam_radius,
            seed=seed,
        )


def trainer_for(
    context: MethodContext,
    method: str,
    groups: Groups,
    placement: Placement | None = None,
    statistics_alpha_KG: Tensor | None = None,
    base_G: Tensor | None = None,
) -> Trainer:
    """Collective. `statistics_alpha_KG` are the checkpoints' weights where those trained are of other rows; `base_G` is
    what the base counts all the time."""
    context.load_shared()
    placement = placement or context.weights.placement(groups)
    if base_G is not None:
        assert context.checkpoints.base is not None
        placement = OnBase(placement, context.checkpoints.base, context.binding.parameters, base_G)
    return Trainer(
        method=method,
        model=context.binding.model,
        placement=placement,
        statistics=context.statistics.policy,
        load_statistics=lambda weights_KG: context.statistics.policy.load_weights(
            weights_KG if statistics_alpha_KG is None else statistics_alpha_KG, groups
        ),
        groups=groups,
        examples=context.coefficient_examples,
        collectives=context.collectives,
        state=context.state,
        on_event=context.on_event,
    )


WHOLE_MOVES = (1.0, 0.75, 0.5)
OWN_MOVES = (1.0, 0.5, 1.5)
"""What `rescaled` tries; of equals, the first."""


def rescaled(
    context: MethodContext, method: str, groups: Groups, start: str, alpha_0_KG: Tensor, trained: Trained
) -> Choice:
    """Collective: the select split picks how far the result goes; from a picked start, perhaps not at all.

    First the move as a whole, then what each group's differs from the mean over groups: two numbers, from a few that
    are fixed. What is trained on few examples tends to go too far, and groups the more so; the fit split cannot tell.
    By the loss, which was trained: a metric like accuracy is too coarse to tell such neighbours apart.
    """

    def moved(whole: float, own: float) -> Tensor:
        move_KG = trained.weights_KG - alpha_0_KG
        mean_K1 = move_KG.mean(dim=1, keepdim=True)
        return alpha_0_KG + whole * (mean_K1 + own * (move_KG - mean_K1))

    def best(tried: list[Tensor]) -> int:
        contenders = [_coefficients(context, groups, alpha_KG) for alpha_KG in tried]
        return context.race(contenders, stage="evaluate", method=method, by_loss=True)

    moves = (*WHOLE_MOVES, 0.0) if start == PICKED else WHOLE_MOVES
    whole = moves[best([moved(whole, 1.0) for whole in moves])]
    own = OWN_MOVES[best([moved(whole, own) for own in OWN_MOVES])] if len(groups) > 1 and whole else 1.0
    choice = as_choice(context, method, groups, replace(trained, weights_KG=moved(whole, own)))
    return choice if start != PICKED else replace(choice, details=pick_start(context).to_json(fell_back=not whole))


def as_choice(context: MethodContext, method: str, groups: Groups, trained: Trained) -> Choice:
    """What was trained as coefficients of the checkpoints."""
    return Choice(
        coefficients=_coefficients(context, groups, trained.weights_KG),
        label=method if len(groups) == 1 else f"{method} ({len(groups)} groups)",
        losses=trained.losses,
        course=trained.course.to_json(groups.names),
    )


def _coefficients(context: MethodContext, groups: Groups, alpha_KG: Tensor) -> Coefficients:
    base_G = rest_of(alpha_KG)
    if base_G is not None:
        return context.coefficients_with_base(base_G, alpha_KG, groups)
    return Coefficients(
        checkpoints=context.checkpoints.names, groups=groups.names, group_of=groups.of, alpha_KG=alpha_KG
    )


def rest_of(alpha_KG: Tensor) -> Tensor | None:
    """float64 [G]: what is missing to a sum of 1 and is the base's; None where nothing is."""
    rest_G = 1 - alpha_KG.sum(dim=0)
    rest_G[rest_G.abs() <= SUM_TOLERANCE] = 0.0
    return rest_G if bool(rest_G.any()) else None

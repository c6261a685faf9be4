"""What a method is: a way to choose coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.model.binding import Binding
from ladle_engine.model.groups import Grouping


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """For methods that take none."""


class FixedMethod:
    """For methods that train nothing: they keep no vectors, start from nothing and have no groups."""

    weight_vectors: ClassVar[int] = 0
    mixes: ClassVar[bool] = True
    combines_checkpoints: ClassVar[bool] = True

    def check(self, options: Any, binding: Binding, checkpoint_names: Sequence[str]) -> None:
        return

    def starts_from(self, options: Any) -> str | None:
        return None

    def grouping(self, options: Any) -> Grouping | None:
        return None

    def uses_base(self, options: Any) -> bool:
        return False

    def goes_by_order(self, options: Any) -> bool:
        return False


class TrainedMethod(FixedMethod):
    """For methods whose options have `start` and `groups`."""

    def starts_from(self, options: Any) -> str | None:
        return str(options.start)

    def grouping(self, options: Any) -> Grouping | None:
        chosen: Grouping = options.groups
        return chosen


class Method(Protocol):
    """Stateless; the registry holds one instance each."""

    name: ClassVar[str]
    summary: ClassVar[str]
    formula: ClassVar[tuple[str, ...]]
    """Lines in plain text: `alpha_i = (1 - decay) decay^(K-i)`. The dashboard shows them as mathematics."""
    reference: ClassVar[str]
    reference_url: ClassVar[str]
    options_type: ClassVar[type]
    weight_vectors: ClassVar[int]
    """Vectors of the model's size that it keeps besides the directions; the memory plan counts them."""
    mixes: ClassVar[bool]
    """Whether it may choose anything but a single checkpoint."""
    combines_checkpoints: ClassVar[bool]
    """Whether what it chooses is a combination of checkpoints and nothing else, from which others can start."""

    def check(self, options: Any, binding: Binding, checkpoint_names: Sequence[str]) -> None:
        """Raises `MethodError` for options that cannot work with these checkpoints. Called before any method runs."""
        ...

    def starts_from(self, options: Any) -> str | None:
        """The checkpoint or the method that training starts from; None where nothing is trained."""
        ...

    def grouping(self, options: Any) -> Grouping | None:
        """How it groups tensors; None for the whole model."""
        ...

    def uses_base(self, options: Any) -> bool:
        """Whether it needs the checkpoints' ancestor, and may give it a weight."""
        ...

    def goes_by_order(self, options: Any) -> bool:
        """Whether what it chooses has no meaning unless the order of the checkpoints is that of training."""
        ...

    def choose(self, context: MethodContext, options: Any) -> Choice:
        """Collective. Trains on the fit split or the training set alone.

        On the select split it may do one thing: let `MethodContext.race` pick one of some rows of fixed numbers, or of
        a few fixed multiples of what it trained.
        """
        ...

"""What a method is: a way to choose coefficients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from ladle_engine.coefficients import Coefficients
from ladle_engine.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """For methods that take none."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a method chose."""

    coefficients: Coefficients
    label: str
    """The method and what it settled on, for people: `last-k (k = 5)`."""
    losses: list[float] = field(default_factory=list)
    """The training loss of every step, for trained methods."""


class Method(Protocol):
    """Stateless; the registry holds one instance each."""

    name: ClassVar[str]
    summary: ClassVar[str]
    reference: ClassVar[str]
    reference_url: ClassVar[str]
    options_type: ClassVar[type]

    def choose(self, work: Workspace, options: Any) -> Choice:
        """Collective. Trains on the fit split or the training set alone.

        On the select split it may do one thing: let `Workspace.race` pick one of some rows of fixed numbers.
        """
        ...

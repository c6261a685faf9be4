"""What a method is: a way to choose coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from ladle_engine.methods.context import Choice, MethodContext


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """For methods that take none."""


class Method(Protocol):
    """Stateless; the registry holds one instance each."""

    name: ClassVar[str]
    summary: ClassVar[str]
    reference: ClassVar[str]
    reference_url: ClassVar[str]
    options_type: ClassVar[type]

    def choose(self, context: MethodContext, options: Any) -> Choice:
        """Collective. Trains on the fit split or the training set alone.

        On the select split it may do one thing: let `MethodContext.race` pick one of some rows of fixed numbers, or of
        a few fixed multiples of what it trained.
        """
        ...

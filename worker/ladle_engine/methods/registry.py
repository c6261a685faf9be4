"""Methods by name. A literal list: what stands here is what there is."""

from __future__ import annotations

from ladle_engine.methods.base import Method
from ladle_engine.methods.fixed import Best, Ema, LastK, SecondBest, Uniform
from ladle_engine.methods.greedy import GreedySoup
from ladle_engine.methods.twa import Twa, TwaLayerwise

METHODS: dict[str, Method] = {
    method.name: method
    for method in (Best(), SecondBest(), Uniform(), LastK(), Ema(), GreedySoup(), Twa(), TwaLayerwise())
}
"""In the order in which `auto` runs them; of two that tie, the earlier one wins, so the simpler."""

AUTO = "auto"

AUTO_METHODS: tuple[str, ...] = tuple(name for name in METHODS if name != SecondBest.name)
"""What `auto` runs where it is not told: the second best checkpoint cannot win, so nothing is spent on it."""

"""Methods by name. A literal list: what stands here is what there is."""

from __future__ import annotations

from ladle_engine.methods.base import Method
from ladle_engine.methods.cached_outputs import CachedOutputs
from ladle_engine.methods.extrapolate import Extrapolate
from ladle_engine.methods.fixed import Best, Ema, LastK, SecondBest, Uniform
from ladle_engine.methods.given import Given
from ladle_engine.methods.greedy import GreedySoup
from ladle_engine.methods.model_stock import ModelStock
from ladle_engine.methods.profile import ProfileMethod
from ladle_engine.methods.psgd import Psgd
from ladle_engine.methods.random_bases import RandomBases
from ladle_engine.methods.search import Search
from ladle_engine.methods.twa import LearnedSoup, PcaSubspace, Twa, TwaGramSchmidt, TwaLayerwise
from ladle_engine.methods.wise_ft import WiseFt

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Best(),
        SecondBest(),
        Uniform(),
        LastK(),
        Ema(),
        ProfileMethod(),
        GreedySoup(),
        CachedOutputs(),
        Given(),
        ModelStock(),
        WiseFt(),
        Extrapolate(),
        Twa(),
        TwaLayerwise(),
        TwaGramSchmidt(),
        PcaSubspace(),
        Psgd(),
        LearnedSoup(),
        Search(),
        RandomBases(),
    )
}
"""In the order in which they run; of two that tie, the earlier one wins, so the simpler."""

AUTO = "auto"

AUTO_METHODS: tuple[str, ...] = ("best", "uniform", "last-k", "ema", "greedy-soup", "twa", "twa-layerwise")
"""What `auto` runs where it is not told: the others are for comparison, or another way to the same subspace."""

BASE_METHODS: tuple[str, ...] = ("model-stock", "wise-ft")
"""What it runs besides where the checkpoints have a base."""

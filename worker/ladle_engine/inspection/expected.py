"""What an inspection says of averaging beforehand, where it is asked to read weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ladle_engine.checkpoints.types import CheckpointSet
from ladle_engine.errors import EngineError
from ladle_engine.inspection.distances import measure
from ladle_engine.storage.far import presence
from ladle_engine.subspace.forecast import Seen, forecast

NOT_TOLD = "What averaging will bring is not told"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The forecast and what else the same numbers say."""

    forecast: Mapping[str, Any] | None = None
    from_base: tuple[float, ...] = ()
    """Of each checkpoint; empty without a base, or where nothing was read."""
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: CheckpointSet) -> Expected:
        """Reads weights, unless they are far or factors of adapters. What cannot be told is said in `warnings`."""
        if presence.is_far():
            return cls(warnings=(f"{NOT_TOLD}: the weights are far, and an inspection fetches headers only.",))
        if found.adapters is not None:
            return cls(warnings=(f"{NOT_TOLD} of adapters: distances of their factors are none of the models.",))
        try:
            distances = measure(found)
        except (EngineError, OSError) as error:
            return cls(warnings=(f"{NOT_TOLD}: {error}",))
        seen = Seen(
            distances_KK=distances.between_KK,
            centre_norm=distances.centre_norm,
            steps=found.known_steps,
        )
        told = forecast(seen)
        warnings = () if told is not None else (f"{NOT_TOLD}: it takes at least 4 checkpoints that are not all alike.",)
        return cls(forecast=told, from_base=distances.from_base, warnings=warnings)

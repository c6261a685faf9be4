"""What the models of a curve are called in the next one: by all that their weights are made of, bit for bit.

Coefficients name checkpoints by their place among all that there are, and a run that has grown has others. A key says
what the files hold, and how an average came about: an average that runs along is moved checkpoint by checkpoint, and
its key with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from ladle_engine.coefficients import Coefficients
from ladle_engine.pipeline.along.schedule import Running


class Keys:
    """Moves along the run as `RunningAverages` does."""

    def __init__(self, contents: Sequence[str]) -> None:
        """`contents` are the checkpoints': what stands for the bytes of each."""
        self._contents = contents
        self._of: dict[Running, str] = {}
        self._newest = ""

    def advance(self, index: int, shares: Mapping[Running, float]) -> None:
        """The checkpoint of this index has moved the averages: `shares` are what it has in each that goes on."""
        self._newest = self._contents[index]
        self._of = {
            each: _digest(self._of.get(each, repr((each.shape, each.parameter))), share.hex(), self._newest)
            for each, share in shares.items()
        }

    def key(self, running: Running | None, coefficients: Coefficients) -> str:
        """Of an average, or of the newest checkpoint; the coefficients average statistics."""
        if running is None:
            return _digest("alone", self._newest)
        alpha_K = coefficients.alpha_KG[:, 0]
        own = alpha_K[alpha_K != 0].tolist()
        return _digest(self._of[running], *(alpha.hex() for alpha in own))


def _digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]

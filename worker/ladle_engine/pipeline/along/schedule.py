"""Which averages are tried at which checkpoints of a run, and which must run along for that.

At a checkpoint, windows of the last m checkpoints are tried: for each doubling of m, `windows` lengths. They begin
where averages began that run along since, at checkpoints whose number is divisible by a power of two, so what is kept
grows with the logarithm of the run's length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from ladle_engine.profiles import LINEAR, ONE_MINUS_SQRT, POWER, Profile, gamma_of_half_life, weights, window_of

SHAPES = (LINEAR, ONE_MINUS_SQRT, POWER)
"""Of profiles. With others the past has other proportions at each checkpoint, and would have to be read again there."""

HALF_LIVES = (0.05, 0.1, 0.2)
"""Of `power`, which is over the whole run: the share of the steps so far after which a half is left."""

MOST_ENDS = 32
WINDOWS = (1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """What is tried."""

    every: int | None = None
    """The curve has a point at every n-th checkpoint; None for at most `MOST_ENDS` points."""
    shapes: Sequence[str] = SHAPES
    windows: int = 1
    """How many lengths of windows for each doubling."""

    def refuse_bad(self) -> None:
        """Raises `ValueError` for what breaks its own rule, by the names that `average` has for them."""
        if self.every is not None and (type(self.every) is not int or not 1 <= self.every < 2**31):
            raise ValueError(f"`curve_every` must be a whole number from 1 to 2^31 - 1, but is {self.every!r}.")
        if isinstance(self.shapes, str) or not set(self.shapes) <= set(SHAPES):
            raise ValueError(
                f"`curve_shapes` must be some of {', '.join(SHAPES)}, along which averages can run, but is "
                f"{self.shapes!r}."
            )
        if self.windows not in WINDOWS:
            known = ", ".join(map(str, WINDOWS))
            raise ValueError(f"`curve_windows` must be one of {known}, but is {self.windows!r}.")

    def to_json(self) -> dict[str, Any]:
        return {
            "every": self.every,
            "shapes": [each for each in SHAPES if each in self.shapes],
            "windows": self.windows,
        }


@dataclass(frozen=True)
class Running:
    """An average that runs along from the checkpoint of the index `first` on."""

    shape: str
    parameter: float | None
    first: int

    def profile(self, positions: Sequence[float], end: int) -> Profile:
        """What it is at a checkpoint."""
        return Profile(self.shape, self.parameter, window_of(positions, end, end - self.first + 1))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """For the run of K checkpoints whose steps are `positions`."""

    positions: Sequence[float]
    options: CurveOptions

    @property
    def every(self) -> int:
        """A power of two where it was left open: a run that grows keeps its points."""
        if self.options.every is not None:
            return self.options.every
        every = 1
        while len(self.positions) > MOST_ENDS * every:
            every *= 2
        return every

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The indices of the checkpoints at which the curve has a point: every n-th, and the last one."""
        K = len(self.positions)
        return tuple(index for index in range(K) if (index + 1) % self.every == 0 or index == K - 1)

    def tried_at(self, end: int) -> list[Running]:
        """Averages of two checkpoints at least."""
        found: list[Running] = []
        for shape in self.options.shapes:
            if shape == POWER:
                found += [Running(shape, gamma_of_half_life(share), 0) for share in HALF_LIVES if end > 0]
            else:
                found += [Running(shape, None, first) for first in reversed(self._firsts(end))]
        return found

    def share(self, running: Running, end: int) -> float:
        """What the newest checkpoint has in it."""
        return float(weights(self.positions, end, running.profile(self.positions, end))[end])

    def running_at(self, index: int) -> list[Running]:
        """What must run along when this checkpoint has been read: what is tried at it or later, and has begun."""
        return [each for each, last in self._last_use.items() if each.first <= index <= last]

    @property
    def most_running(self) -> int:
        """How many averages are kept at once."""
        begun = Counter(each.first for each in self._last_use)
        over = Counter(last + 1 for last in self._last_use.values())
        return max(accumulate(begun[index] - over[index] for index in range(len(self.positions))))

    @cached_property
    def _last_use(self) -> Mapping[Running, int]:
        return {running: end for end in self.ends for running in self.tried_at(end)}

    def _firsts(self, end: int) -> list[int]:
        """Where the windows begin: of the lengths from 2^i to 2^(i+1), those that begin at multiples of
        `2^i / windows`."""
        found = []
        for first in range(end):
            doubling = 1 << ((end + 1 - first).bit_length() - 1)
            if first % max(doubling // self.options.windows, 1) == 0:
                found.append(first)
        return found


def coarser(options: CurveOptions) -> CurveOptions | None:
    """The next that keeps fewer averages; None where nothing less can be tried."""
    if options.windows > 1:
        return CurveOptions(every=options.every, shapes=options.shapes, windows=options.windows // 2)
    if len(options.shapes) > 1:
        return CurveOptions(every=options.every, shapes=options.shapes[:1], windows=1)
    return None

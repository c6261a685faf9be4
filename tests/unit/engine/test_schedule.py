"""Which averages are tried along a run, and that each needs nothing of its past but itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from ladle_engine.pipeline.along.schedule import SHAPES, CurveOptions, Running, Schedule, coarser
from ladle_engine.profiles import LINEAR, ONE_MINUS_SQRT, POWER, weights

UNEVEN = [3.0, 4.0, 10.0, 11.0, 30.0, 31.5, 32.0, 50.0, 80.0, 81.0, 82.0]


def schedule(count: int, **options: object) -> Schedule:
    return Schedule(positions=[float(step) for step in range(count)], options=CurveOptions(**options))  # type: ignore[arg-type]


def moved(positions: Sequence[float], schedule: Schedule, running: Running, end: int) -> torch.Tensor:
    """The weights that `m <- m + share (w - m)` ends in, begun with the first checkpoint of the window."""
    alpha_K = torch.zeros(len(positions), dtype=torch.float64)
    alpha_K[running.first] = 1.0
    for index in range(running.first + 1, end + 1):
        share = schedule.share(running, index)
        alpha_K *= 1.0 - share
        alpha_K[index] += share
    return alpha_K


@pytest.mark.parametrize("positions", [UNEVEN, [float(step) for step in range(40)]])
@pytest.mark.parametrize("windows", [1, 4])
def test_every_average_that_is_tried_is_the_one_that_ran_along(positions: list[float], windows: int) -> None:
    along = Schedule(positions=positions, options=CurveOptions(every=1, windows=windows))
    tried = {(running, end) for end in along.ends for running in along.tried_at(end)}
    assert {running.shape for running, _ in tried} == set(SHAPES)
    for running, end in tried:
        expected = weights(positions, end, running.profile(positions, end))
        torch.testing.assert_close(moved(positions, along, running, end), expected, rtol=0, atol=1e-12)
        assert expected.sum() == pytest.approx(1.0, abs=1e-12)
        assert running in along.running_at(end), "or it would not be there to be tried"


def test_a_uniform_window_is_the_mean_of_its_checkpoints() -> None:
    along = schedule(64, every=64, shapes=(LINEAR,))
    found = [weights(along.positions, 63, each.profile(along.positions, 63)) for each in along.tried_at(63)]
    assert [int((alpha_K > 0).sum()) for alpha_K in found] == [2, 4, 8, 16, 32, 64]
    for alpha_K in found:
        assert set(alpha_K[alpha_K > 0].tolist()) == {1 / int((alpha_K > 0).sum())}


@pytest.mark.parametrize("windows", [1, 2, 4])
@pytest.mark.parametrize("count", [2, 17, 100])
def test_windows_are_tried_in_every_doubling_and_few_averages_are_kept(count: int, windows: int) -> None:
    along = schedule(count, every=1, shapes=(LINEAR,), windows=windows)
    doublings = math.floor(math.log2(count))
    for end in along.ends[1:]:
        lengths = [end - each.first + 1 for each in along.tried_at(end)]
        assert lengths == sorted(set(lengths)), "the shortest first, none twice"
        assert lengths[-1] == end + 1, "the whole run is always tried"
        for doubling in range(1, math.floor(math.log2(end + 1))):
            inside = [length for length in lengths if 1 << doubling <= length < 2 << doubling]
            assert len(inside) == min(windows, 1 << doubling)
    assert along.most_running == max(len(along.running_at(index)) for index in range(count))
    assert along.most_running <= 2 * windows * (doublings + 1)


def test_a_curve_has_at_most_32_points_that_stay_when_the_run_grows_and_always_the_last_one() -> None:
    for count in (2, 32, 33, 65, 300):
        along, grown = schedule(count), schedule(count + 40)
        assert along.ends[-1] == count - 1
        assert len(along.ends) <= 33
        assert grown.every % along.every == 0
        kept = {end for end in along.ends if (end + 1) % grown.every == 0}
        assert kept == {end for end in grown.ends if end < count}
    assert schedule(10, every=4).ends == (3, 7, 9)


def test_only_what_is_used_later_runs_along() -> None:
    along = schedule(64, every=16)
    for index in range(64):
        for running in along.running_at(index):
            assert running.first <= index
            assert any(running in along.tried_at(end) for end in along.ends if end >= index)


def test_with_less_memory_fewer_windows_are_tried_and_then_only_one_shape() -> None:
    options: CurveOptions | None = CurveOptions(windows=4)
    seen = []
    while options is not None:
        seen.append((options.windows, tuple(options.shapes)))
        options = coarser(options)
    assert seen == [(4, SHAPES), (2, SHAPES), (1, SHAPES), (1, SHAPES[:1])]
    kept = [schedule(100, windows=each, shapes=shapes).most_running for each, shapes in seen]
    assert kept == sorted(set(kept), reverse=True)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"every": 0}, "every"),
        ({"every": True}, "every"),
        ({"shapes": ("cosine",)}, "shapes"),
        ({"shapes": ONE_MINUS_SQRT}, "shapes"),
        ({"windows": 3}, "windows"),
    ],
)
def test_an_option_that_breaks_its_rule_is_named(options: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=f"`curve_{field}` must be"):
        CurveOptions(**options).refuse_bad()  # type: ignore[arg-type]


def test_half_lives_of_the_power_shape_are_shares_of_the_run() -> None:
    along = schedule(400, every=400, shapes=(POWER,))
    for running, share in zip(along.tried_at(399), (0.05, 0.1, 0.2), strict=True):
        alpha_K = weights(along.positions, 399, running.profile(along.positions, 399))
        # Of what was there at step t, (t/T)^(ln 2 / share) is left: a half at T e^(-share).
        assert float(alpha_K[: round(400 * math.exp(-share))].sum()) == pytest.approx(0.5, abs=0.03)

"""Profiles against plain sums, and against what other tools compute, written here as their sources define it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch

from ladle_engine.errors import MethodError
from ladle_engine.profiles import (
    COSINE,
    EXPONENTIAL,
    LINEAR,
    ONE_MINUS_SQRT,
    POWER,
    Profile,
    gamma_of_half_life,
    half_life_of_decay,
    positions_of,
    weights,
    window_of,
)

EVEN = [100.0 * step for step in range(1, 9)]
UNEVEN = [10.0, 20.0, 50.0, 60.0, 100.0]

FADING: dict[str, Callable[[float, float], float]] = {
    LINEAR: lambda x, _: 1 - x,
    ONE_MINUS_SQRT: lambda x, _: 1 - math.sqrt(x),
    COSINE: lambda x, _: math.cos(math.pi * x / 2) ** 2,
    POWER: lambda x, gamma: 1 - x ** (gamma + 1),
    EXPONENTIAL: lambda x, h: 1 - math.exp(math.log(2) * (x - 1) / h) if x > 0 else 1.0,
}
PROFILES = [
    Profile(LINEAR),
    Profile(ONE_MINUS_SQRT, window=45),
    Profile(COSINE, window=90),
    Profile(POWER, 12.9, window=300),
    Profile(POWER, -0.7, window=33),
    Profile(EXPONENTIAL, 0.2),
    Profile(EXPONENTIAL, 3.0, window=60),
]


def plain(positions: Sequence[float], end: int, profile: Profile) -> list[float]:
    """`alpha_j` by what each checkpoint stands for, one after the other."""
    before = [2 * positions[0] - positions[1], *positions[:-1]]
    window = profile.window or positions[end] - before[0]
    alpha = []
    for j, (start, stop) in enumerate(zip(before, positions, strict=True)):
        x_from, x_to = (min(max((step - positions[end] + window) / window, 0.0), 1.0) for step in (start, stop))
        fading, parameter = FADING[profile.shape], profile.parameter or 0.0
        alpha.append(fading(0.0 if j == 0 else x_from, parameter) - fading(x_to, parameter) if j <= end else 0.0)
    return alpha


@pytest.mark.parametrize("profile", PROFILES, ids=str)
@pytest.mark.parametrize("positions", [EVEN, UNEVEN, [0.0, 1.0, 2.0]], ids=["even", "uneven", "without steps"])
def test_weights_are_the_differences_of_what_checkpoints_stand_for(positions: list[float], profile: Profile) -> None:
    for end in range(len(positions)):
        alpha = weights(positions, end, profile)
        assert alpha.tolist() == pytest.approx(plain(positions, end, profile), abs=1e-12)
        assert float(alpha.sum()) == pytest.approx(1.0)
        assert float(alpha.min()) >= 0.0


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_a_single_checkpoint_is_itself(profile: Profile) -> None:
    assert weights([700.0], 0, profile).tolist() == [1.0]


def test_unevenly_spaced_checkpoints_count_by_the_steps_that_they_stand_for() -> None:
    assert weights(UNEVEN, 4, Profile(LINEAR)).tolist() == [0.1, 0.1, 0.3, 0.1, 0.4]


def test_a_window_may_begin_between_two_checkpoints() -> None:
    assert weights(EVEN, 7, Profile(LINEAR, window=250)).tolist() == [0, 0, 0, 0, 0, 0.2, 0.4, 0.4]


def test_the_first_checkpoint_stands_for_what_lies_before_it() -> None:
    assert weights([300.0, 400.0], 1, Profile(LINEAR, window=400)).tolist() == [0.75, 0.25]


@pytest.mark.parametrize("K", [1, 2, 3, 7, 30, 49])
def test_linear_is_uniform_to_the_last_bit(K: int) -> None:
    for positions in ([float(i) for i in range(K)], [1000.0 * (i + 3) for i in range(K)]):
        assert weights(positions, K - 1, Profile(LINEAR)).tolist() == [1.0 / K] * K


@pytest.mark.parametrize("end", [3, 7])
def test_linear_over_the_window_of_k_checkpoints_is_last_k_to_the_last_bit(end: int) -> None:
    for k in range(1, end + 2):
        alpha = weights(EVEN, end, Profile(LINEAR, window=window_of(EVEN, end, k)))
        assert alpha.tolist() == [0.0] * (end + 1 - k) + [1.0 / k] * k + [0.0] * (7 - end)


@pytest.mark.parametrize("decay", [0.2, 0.5, 0.9, 0.9999])
def test_exponential_is_the_recursion_of_an_ema(decay: float) -> None:
    K = len(EVEN)
    mean = [1.0] + [0.0] * (K - 1)
    for j in range(1, K):
        mean = [decay * each for each in mean]
        mean[j] += 1 - decay
    alpha = weights(EVEN, K - 1, Profile(EXPONENTIAL, half_life_of_decay(decay, K)))
    assert alpha.tolist() == pytest.approx(mean, rel=1e-12)


def test_power_holds_linear_and_one_minus_sqrt() -> None:
    assert weights(UNEVEN, 4, Profile(POWER, 0.0)).tolist() == pytest.approx(
        weights(UNEVEN, 4, Profile(LINEAR)).tolist()
    )
    root = weights(UNEVEN, 4, Profile(ONE_MINUS_SQRT)).tolist()
    assert weights(UNEVEN, 4, Profile(POWER, -0.5)).tolist() == pytest.approx(root)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 20])
def test_one_minus_sqrt_is_megatrons_minus_sqrt(n: int) -> None:
    """NVIDIA/Megatron-LM, tools/checkpoint/weighted_merge.py, `schedule_to_merge_coefficients`: of the schedule at
    `i/n`, each checkpoint has the fall to the next one, the last one what is left, and the first one the rest of 1."""
    schedule = [1 - math.sqrt(i / n) for i in range(n)]
    falls = [0.0, *(schedule[i] - schedule[i + 1] for i in range(1, n - 1)), *schedule[n - 1 :][: n - 1]]
    merged = [1 - sum(falls), *falls[1:]]
    assert weights([50.0 * i for i in range(n)], n - 1, Profile(ONE_MINUS_SQRT)).tolist() == pytest.approx(merged)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_power_is_torchtitans_ema_with_a_half_life_that_is_a_share_of_the_steps(share: float) -> None:
    """pytorch/torchtitan, components/ema.py, `_decay_at`: at update t, `2 ** (-1 / (half_life_fraction * t))`."""
    T = 1000
    mean_T = torch.zeros(T, dtype=torch.float64)
    for t in range(1, T + 1):
        decay = 2.0 ** (-1.0 / (share * t))
        mean_T *= decay
        mean_T[t - 1] += 1 - decay
    alpha_T = weights([float(t) for t in range(1, T + 1)], T - 1, Profile(POWER, gamma_of_half_life(share)))
    # The harmonic series is a logarithm but for half a step.
    assert float((alpha_T - mean_T).abs().sum()) < 1 / (share * T)


def test_the_default_half_life_of_torchtitan_is_karras_gamma_of_12_9() -> None:
    assert gamma_of_half_life(0.05) == pytest.approx(12.9, abs=0.05)


def test_linear_is_what_icefall_takes_from_two_running_means() -> None:
    """k2-fsa/icefall, checkpoint.py: `update_averaged_model` mixes in `period / batch` of the model at each period;
    `average_checkpoints_with_averaged_model` takes the steps from `start` (excluded) to `end` out of two such means."""
    period, start, end = 200.0, 600.0, 1600.0
    batches = [period * i for i in range(1, 9)]
    mean, means = [0.0] * 8, {}
    for i, batch in enumerate(batches):
        mean = [each * (1 - period / batch) for each in mean]
        mean[i] += period / batch
        means[batch] = mean
    taken = [
        (at_end * end - at_start * start) / (end - start)
        for at_end, at_start in zip(means[end], means[start], strict=True)
    ]
    alpha = weights(batches, batches.index(end), Profile(LINEAR, window=end - start))
    assert alpha.tolist() == pytest.approx(taken, abs=1e-12)


@pytest.mark.parametrize(
    "profile", [Profile(LINEAR, window=55), Profile(COSINE, window=70), Profile(POWER, 2, 95)], ids=str
)
def test_those_that_are_left_of_thinned_checkpoints_stand_for_those_that_are_gone(profile: Profile) -> None:
    left = [4, 9, 10, 30, 31, 57, 80, 98, 99]
    full = weights([float(step) for step in range(100)], 99, profile)
    thin = weights([float(step) for step in left], len(left) - 1, profile)
    stand_for = [full[0:5], *(full[before + 1 : own + 1] for before, own in pairwise(left))]
    assert thin.tolist() == pytest.approx([float(part.sum()) for part in stand_for])


def test_steps_that_are_not_known_or_do_not_rise_are_counted() -> None:
    assert positions_of([10, 20.5, 50]) == [10.0, 20.5, 50.0]
    assert positions_of([10, None, 50]) == [0.0, 1.0, 2.0]
    assert positions_of([10, 20, 10]) == positions_of([10, 20, 20]) == [0.0, 1.0, 2.0]
    assert positions_of([]) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("round",),
            "`shape` of a profile must be one of linear, one-minus-sqrt, cosine, power, exponential, but is 'round'",
        ),
        ((POWER,), "`parameter` of a profile must be a number for the shape `power`, but is None"),
        ((LINEAR, 2.0), "`parameter` of a profile must be absent for the shape `linear`, but is 2.0"),
        ((POWER, -1.0), "must be above -1 for the shape `power`, but is -1.0"),
        ((EXPONENTIAL, 0.0), "must be above 0 for the shape `exponential`, but is 0.0"),
        ((POWER, math.nan), "must be above -1 for the shape `power`, but is nan"),
        ((LINEAR, None, 0.0), "`window` of a profile must be above 0, but is 0.0"),
        ((LINEAR, None, math.inf), "`window` of a profile must be above 0, but is inf"),
    ],
)
def test_a_profile_that_cannot_be_is_refused(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(MethodError, match=words.replace("(", r"\(")) as refused:
        Profile(*arguments)  # type: ignore[arg-type]
    assert refused.value.code == "invalid-method-options"

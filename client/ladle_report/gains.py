"""A gain in words that always read as better or worse, whichever way the metric counts.

A gain is positive when a candidate is better than the best checkpoint: with the loss, when its loss is *lower*.
"""

from __future__ import annotations


def better(metric: str, gain: float) -> str:
    """`1.20 points better`, `0.0878 worse` or `equal`"""
    return f"{_amount(metric, gain)} {_word(gain)}" if gain else "equal"


def better_between(metric: str, low: float, high: float) -> str:
    """An interval, for a table that has the unit beside it: `0.50 to 1.80 better`, `0.0100 worse to 0.0300 better`"""
    if low == high == 0:
        return "equal"
    low, high = _ordered(low, high)
    return _between(_number(metric, low), _word(low), _number(metric, high), _word(high))


def compared(metric: str, higher_is_better: bool, gain: float) -> str:
    """`accuracy 1.20 points higher`, `loss 0.0878 lower`"""
    return f"{metric} {_amount(metric, gain)} {_direction(gain, higher_is_better)}"


def compared_between(metric: str, higher_is_better: bool, low: float, high: float) -> str:
    """An interval: `0.50 to 1.80 points higher`, `0.0100 higher to 0.0300 lower`"""
    low, high = _ordered(low, high)
    first, second = _direction(low, higher_is_better), _direction(high, higher_is_better)
    return _between(_amount(metric, low), first, _amount(metric, high), second)


def _ordered(low: float, high: float) -> tuple[float, float]:
    """Two losses are told like two gains, the smaller one first."""
    return (high, low) if high < 0 else (low, high)


def _between(low: str, low_word: str, high: str, high_word: str) -> str:
    if low_word != high_word:
        return f"{low} {low_word} to {high} {high_word}"
    return f"{low.removesuffix(' points')} to {high} {high_word}"


def _word(gain: float) -> str:
    return "better" if gain >= 0 else "worse"


def _direction(gain: float, higher_is_better: bool) -> str:
    return "higher" if (gain >= 0) == higher_is_better else "lower"


def _amount(metric: str, gain: float) -> str:
    return f"{_number(metric, gain)} points" if is_share(metric) else _number(metric, gain)


def _number(metric: str, gain: float) -> str:
    """As many digits as the tables show; a difference too small for them keeps one digit of its own."""
    size = abs(gain)
    text = f"{100 * size:.2f}" if is_share(metric) else f"{size:.4f}"
    return text if float(text) or not size else f"{100 * size if is_share(metric) else size:.0e}"


def is_share(metric: str) -> bool:
    """An accuracy is a share of all examples, and people count its changes in percentage points."""
    return "accuracy" in metric

"""Why no average was better than the best checkpoint: what the report itself shows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from ladle_report.gains import better
from ladle_report.loss_decided import loss_decided, passed_over
from ladle_report.numbers import plural, value_of
from ladle_report.reading import Report
from ladle_report.sureness import needed_examples

FEW = 3
MOST_RISING = 0.75
"""Of the steps from one checkpoint to the next: from this share on a run still improves."""


def reasons(report: Report) -> list[str]:
    """One to a few sentences. What cannot be seen in the numbers is not told."""
    found = [told for reason in REASONS if (told := reason(report))]
    return found or [
        "An average helps most where checkpoints lie around one minimum: of the end of a run whose learning rate was "
        "not yet near zero, or of fine-tunings from one start."
    ]


def _one_was_worse_somewhere(report: Report) -> str:
    better_ones = [row for row in report.candidates if row["gain"] > 0]
    if not better_ones or passed_over(report.candidates, "best"):
        return ""
    top = max(better_ones, key=lambda row: row["gain"])
    sets = ", ".join(f"`{name}`" for name in top.get("worse_on", ())) or "some validation set"
    return (
        f"`{top['label']}` is {better(report.metric, top['gain'])}, but worse on {sets}, and the job allows no set to "
        f"become worse (`no_set_worse`)."
    )


def _another_basin(report: Report) -> str:
    basins = report.part("diagnosis").get("basins", ())
    if len(basins) < 2:
        return ""
    return f"The checkpoints lie in {len(basins)} basins: between two of them the loss rises, so their average is bad."


def _uniform_is_bad(report: Report) -> str:
    """Worse than every checkpoint that it is made of."""
    if report.part("diagnosis").get("basins"):
        return ""
    uniform = next((row for row in report.candidates if row["method"] == "uniform"), None)
    alone = [each["select"]["means"].get("loss") for each in report.json["checkpoints"] if each.get("select")]
    known = [loss for loss in alone if loss is not None]
    loss = None if uniform is None else uniform["select"].get("loss")
    if loss is None or len(known) < len(report.names) or loss <= max(known):
        return ""
    losses = f"{value_of('loss', loss)}, more than any single checkpoint ({value_of('loss', max(known))} at most)"
    return (
        f"The plain average has a loss of {losses}: they may lie in several basins, as runs from different starts do. "
        f"A job with `diagnose` tells."
    )


def _still_rising(report: Report) -> str:
    values = _alone(report)
    if report.steps is None or len(values) < FEW + 1 or report.best["coefficients"][0][-1] != 1.0:
        return ""
    rising = [(b > a) == report.higher_is_better for a, b in pairwise(values) if a != b]
    if not rising or sum(rising) < MOST_RISING * len(rising):
        return ""
    return (
        "The run was still improving: the last checkpoint is the best, so earlier ones pull an average back. Averages "
        "pay once a run has levelled off; until then try only its end, as with `last`."
    )


def _alone(report: Report) -> list[float]:
    found = [(each.get("select") or {}).get("means", {}).get(report.metric) for each in report.json["checkpoints"]]
    return [value for value in found if value is not None]


def _few(report: Report) -> str:
    count = len(report.names)
    if count > FEW:
        return ""
    return f"There are only {plural(count, 'checkpoint')}: more of them give an average more to work with."


def _overfitted(report: Report) -> str:
    """Better where it was trained, not where it was judged."""
    best_fit = report.best["fit"].get("loss")
    for row in report.candidates:
        loss = row["fit"].get("loss")
        is_trained = bool(row.get("curve")) and best_fit is not None and loss is not None
        if is_trained and loss < best_fit and row["gain"] < 0:
            return (
                f"`{row['label']}` is better than the best checkpoint on the fit split (loss {value_of('loss', loss)} "
                f"instead of {value_of('loss', best_fit)}), but not on held-out examples: it fits the "
                f"{report.json['splits']['fit']:,} examples of the fit split. More data for it, or `train_set`, helps."
            )
    return ""


def _cannot_be_told(report: Report) -> str:
    """All intervals include zero."""
    others = [row for row in report.candidates if row["method"] != "best"]
    if not others or not all(row["gain_low"] <= 0 <= row["gain_high"] for row in others):
        return ""
    if told := needed_examples(report):
        return told
    narrowest = min((row["gain_high"] - row["gain_low"]) / 2 for row in others)
    if not narrowest:
        return ""
    examples = plural(report.json["splits"]["select"], "held-out example")
    return f"With {examples} no difference below {_size(report.metric, narrowest)} can be told from chance."


def _size(metric: str, amount: float) -> str:
    return better(metric, amount).removesuffix(" better")


def _loss_would(report: Report) -> str:
    if report.metric == "loss":
        return ""
    losses = {row["label"]: row["select"].get("loss") for row in report.candidates}
    known = {label: loss for label, loss in losses.items() if loss is not None}
    lowest = min(known, key=lambda label: known[label], default=None)
    if lowest is None or lowest == report.best["label"]:
        return ""
    best = known.get(report.best["label"])
    losses_told = f"{value_of('loss', known[lowest])} instead of {value_of('loss', best)}"
    return f"`{lowest}` has a lower loss: {losses_told}. With `metric` set to `loss`, that decides."


def _loss_decided(report: Report) -> str:
    return loss_decided(report.candidates, "best", report.metric)


REASONS: tuple[Callable[[Report], str], ...] = (
    _loss_decided,
    _one_was_worse_somewhere,
    _another_basin,
    _uniform_is_bad,
    _still_rising,
    _few,
    _overfitted,
    _cannot_be_told,
    _loss_would,
)

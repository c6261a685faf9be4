"""How sure a gain is, in words: what its interval counts, and how many examples would show it.

Reports of earlier versions have the interval of each comparison alone, and no `choice`.
"""

from __future__ import annotations

import math

from ladle_report.gains import better
from ladle_report.numbers import plural
from ladle_report.reading import Report


def counts_choice(report: Report) -> bool:
    """Whether its intervals hold for all candidates at once."""
    return report.part("choice").get("interval") == "simultaneous"


def ninety_five(report: Report) -> str:
    """`95 %`, and what that counts."""
    tried = int(report.part("choice").get("averages", 0))
    return f"95 %, counting that the best of {tried} was picked" if counts_choice(report) and tried > 1 else "95 %"


def needed_examples(report: Report) -> str:
    """How large a gain these examples show, and how many would show one of the size that was measured; empty where the
    report does not say."""
    choice = report.part("choice")
    visible, needed = choice.get("visible_gain"), choice.get("examples_needed")
    if not visible:
        return ""
    label = report.candidate(str(choice["method"]))["label"]
    told = f"With {plural(int(report.json['splits']['select']), 'held-out example')}"
    return f"{told}, {enough(report.metric, float(visible), needed, f'`{label}`')}"


def enough(metric: str, visible: float, needed: int | None, label: str) -> str:
    """The end of such a sentence, of one average."""
    seen = f"a gain of {_size(metric, visible)} is seen four times in five."
    if not needed:
        return seen
    return f"{seen} To see one as large as the difference of {label} takes about {rounded_up(needed):,}."


def rounded_up(count: int) -> int:
    """To two digits: `count` is an estimate."""
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return unit * math.ceil(count / unit)


def _size(metric: str, amount: float) -> str:
    return better(metric, amount).removesuffix(" better")

"""Looks for folders that are neither read nor refused within bounds, from a seed."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.fuzz.client import Answer, Reader
from tests.fuzz.forms import write
from tests.fuzz.generators import GENERATORS, Case


class FoundFault(Exception):
    """Of one example; hypothesis looks for a smaller one."""


@dataclasses.dataclass
class Found:
    generator: str
    case: Case
    answer: Answer


class Fuzzer:
    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.counts: Counter[str] = Counter()
        """Outcomes, refusals by their reasons."""
        self._known: set[str] = set()
        """Faults that were found: each is told once."""

    def run(self, generator: str, number: int, examples: int, *, shrinks: bool = True) -> Iterator[Found]:
        """Tries so many examples of a generator from the seed `number`; those of the same are the same."""
        last: list[Found] = []

        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
            print_blob=False,
        )
        @given(GENERATORS[generator])
        def try_one(case: Case) -> None:
            answer = self.reader.answer(case.target, lambda folder: write(case.files, folder))
            self.counts[answer.reason or answer.outcome] += 1
            if answer.outcome == "fault" and signature(answer) not in self._known:
                last[:] = [Found(generator, case, answer)]
                raise FoundFault(answer.what)

        try:
            try_one()
        except* FoundFault:
            self._known.add(signature(last[0].answer))
            yield last[0]

    def run_for(self, minutes: float, number: int, only: str = "") -> Iterator[Found]:
        """All generators in turn, until the time is over."""
        end = time.monotonic() + 60 * minutes
        generators = [generator for generator in GENERATORS if only in generator]
        turns = itertools.count() if generators else ()
        for turn in turns:
            for generator in generators:
                if time.monotonic() > end:
                    return
                yield from self.run(generator, number * 1_000_003 + turn, EXAMPLES)


EXAMPLES = 40
"""Of one generator, before the next one's turn."""


def signature(answer: Answer) -> str:
    """The same for the same fault: its kind, and the innermost lines of code."""
    places = [line.strip() for line in answer.trace.splitlines() if line.strip().startswith("File ")]
    return " ".join([answer.what.partition(":")[0], *places[-2:]])


def keep(found: Found, folder: Path) -> Path:
    """Writes a folder that shows a fault, and what it was, for whoever mends it."""
    place = next(path for number in itertools.count(1) if not (path := folder / f"{found.generator}-{number}").exists())
    place.mkdir(parents=True)
    write({f"files/{name}": content for name, content in found.case.files.items()}, place)
    (place / "what.txt").write_text(f"{found.case.target}\n{found.answer}\n", errors="backslashreplace")
    return place

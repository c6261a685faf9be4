"""`make fuzz`: the corpus, and then folders by chance for some minutes. Prints the seed and every fault."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

from tests.fuzz.client import Reader
from tests.fuzz.corpus import rows
from tests.fuzz.forms import write
from tests.fuzz.fuzzer import Fuzzer, keep

FOUND = Path("fuzz-found")


def main() -> int:
    arguments = _arguments()
    print(
        f"Seed {arguments.seed}; again with FUZZ='--seed {arguments.seed} --minutes {arguments.minutes:g}'.", flush=True
    )
    with Reader() as reader:
        faults = _try_corpus(reader, arguments.only)
        fuzzer = Fuzzer(reader)
        for found in fuzzer.run_for(arguments.minutes, arguments.seed, arguments.only):
            faults += 1
            print(f"FAULT in `{found.generator}`, kept in {keep(found, FOUND)}:\n{found.answer}\n", flush=True)
    for outcome, count in fuzzer.counts.most_common():
        print(f"{count:8,} {outcome}")
    print(f"{fuzzer.counts.total():,} folders by chance. {faults} faults.")
    return 1 if faults else 0


def _try_corpus(reader: Reader, only: str) -> int:
    wrong = 0
    for number, row in enumerate(rows()):
        if only not in row.name:
            continue
        answer = reader.answer(row.target, lambda folder, row=row: write(row.make(), folder))
        is_expected = (answer.reason or None) == row.reason and answer.taken_mb <= row.most_mb
        if answer.outcome == "fault" or not is_expected:
            wrong += 1
            print(f"Row {number}, {row.name!a}: {row.reason} was expected, but it is {answer}", flush=True)
    return wrong


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--minutes", type=float, default=3.0, help="of folders by chance, after the corpus")
    parser.add_argument("--only", default="", help="rows and generators with this in their names")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""`make chaos`: random faults over the whole stack, at every stage of a job, until the time is over.

    python -m tests.chaos [--seed N] [--minutes M] [--rounds N] [--only ROUND]

Prints the seed, and a line for each round. The same seed gives the same jobs and the same faults at the same stages.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.invariants import Undisturbed, bodies, broken, nothing_hidden
from tests.chaos.rounds import METHODS, Plan, Shape, plan, run
from tests.chaos.world import World, world

IN_NAMESPACE = "LADLE_CHAOS_NAMESPACE"
QUICK_SHAPES = (Shape("twa", 2),)
SHAPES = tuple(Shape(method, ranks) for method in METHODS for ranks in (1, 2))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="by default a new one, which is printed")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--only", type=int, default=None, help="only this round of the seed")
    given = parser.parse_args(arguments)
    seed = random.randrange(10**6) if given.seed is None else given.seed
    own_mounts = _in_own_namespace(["--seed", str(seed), *_others(given)])
    print(f"seed {seed}" + ("" if own_mounts else " (without faults of the disk: they need root)"), flush=True)
    folder = Path(tempfile.mkdtemp(prefix="ladle-chaos-"))
    numbers = range(1, given.rounds + 1) if given.only is None else [given.only]
    began = time.monotonic()
    with world(folder, own_mounts=own_mounts) as made:
        shapes = QUICK_SHAPES if given.rounds <= 5 else SHAPES
        failed = _rounds(made, seed, numbers, shapes, lambda: time.monotonic() - began < given.minutes * 60)
        if hidden := nothing_hidden(made):
            failed.append(f"after all rounds {hidden}")
    if failed:
        print(f"\n{len(failed)} failed with seed {seed}; logs are in {folder}:", *failed, sep="\n  ")
        return 1
    shutil.rmtree(folder)
    print(f"every invariant held, seed {seed}")
    return 0


def _rounds(
    made: World, seed: int, numbers: Sequence[int], shapes: Sequence[Shape], goes_on: Callable[[], bool]
) -> list[str]:
    """What did not hold."""
    undisturbed, moments = {}, {}
    for position, shape in enumerate(shapes):
        done = run(made, Plan(-position, shape, ()), seed)
        assert done.fields["state"] == "succeeded", f"without any fault: {done.fields}"
        undisturbed[shape] = Undisturbed.of(made, done)
        stages = (
            f"{body['stage']}-{body.get('method') or ''}" for body in bodies(made, done) if body["kind"] == "stage"
        )
        moments[shape] = list(dict.fromkeys(stages))
    failed = []
    for number in numbers:
        if not goes_on():
            break
        began = time.monotonic()
        planned = plan(seed, number, moments, has_disk=made.has_disk)
        print(planned, end=" ", flush=True)
        try:
            done = run(made, planned, seed)
            faults = broken(made, done, undisturbed)
            told = done.fields.get("reason") or done.fields["state"]
        except AssertionError as error:
            faults, told = [str(error)], "no end"
            made.heal()
        print(f"-> {told}, {time.monotonic() - began:.0f} s", *(f"\n  BROKEN: {fault}" for fault in faults), flush=True)
        failed += [f"{planned}: {fault}" for fault in faults]
        made.wait_until_ready()
        shutil.rmtree(made.results / f"out-{number}", ignore_errors=True)
    return failed


def _others(given: argparse.Namespace) -> list[str]:
    only = [] if given.only is None else ["--only", str(given.only)]
    return ["--minutes", str(given.minutes), "--rounds", str(given.rounds), *only]


def _in_own_namespace(arguments: list[str]) -> bool:
    """Starts again in a mount namespace of its own, where that is allowed, so that the disk can be a small one."""
    if IN_NAMESPACE in os.environ:
        return True
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    os.environ[IN_NAMESPACE] = "1"
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.chaos", *arguments]
    return bool(os.execvp(command[0], command))


if __name__ == "__main__":
    sys.exit(main())

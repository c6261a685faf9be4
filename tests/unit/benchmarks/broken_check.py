"""`gpu_check.py` with parts that fail in every way, and others.

python broken_check.py FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import gpu_check
import torch
from gpu import kernels, placements
from gpu.parts import Budget, Found, Part, Setting, Skipped
from gpu.worker import Orders, Record, Worker


def part(name: str, run: Callable[[Setting], Found], *, is_check: bool = True) -> Part:
    return Part(name=name, summary="", run=run, is_check=is_check)


def fine(setting: Setting) -> Found:
    return Found(says="fine", figures={"answer": 42})


def raises(setting: Setting) -> Found:
    setting.keep(Found(figures={"half": 21}))
    raise ValueError("this is broken")


def exits(setting: Setting) -> Found:
    os._exit(3)


def crashes(setting: Setting) -> Found:
    setting.keep(Found(figures={"half": 21}))
    os.kill(os.getpid(), signal.SIGSEGV)
    return Found()


def skips(setting: Setting) -> Found:
    raise Skipped("not here")


def wrong_kernels(setting: Setting) -> Found:
    right = kernels._module(setting)

    class Wrong:
        project = staticmethod(right.project)

        @staticmethod
        def expand_into(*arguments: object) -> None:
            right.expand_into(*arguments)
            arguments[-2][-1:] += 1  # type: ignore[index]  # the last element of the output

    kernels._module = lambda setting: Wrong  # type: ignore[assignment,return-value]
    kernels.SMALL_SHAPES = ((2, 63),)
    return kernels.kernels(setting)


def hangs(setting: Setting) -> Found:
    setting.keep(Found(figures={"half": 21}))
    threading.Event().wait()
    return Found()


def of_a_part_that_hangs() -> Record:
    hanging = part("hangs", hangs)
    worker = Worker(Orders(parts={"hangs": hanging}, device="cpu", quick=True, budget=Budget(seconds=0)))
    try:
        return worker.run("hangs", timeout_s=1, keep=lambda found: None)
    finally:
        worker.end()


def of_a_budget_that_ends_after_a_row(folder: Path) -> Record:
    """By a clock that stands still for as long as one row is allowed."""
    from gpu import tables  # with transformers, which imports Triton: after the kernels have been interpreted

    seen = iter([0.0, 0.0])
    budget = Budget(seconds=10, clock=lambda: next(seen, 100.0))
    setting = Setting(device=torch.device("cpu"), quick=True, folder=folder, budget=budget, keep=lambda found: None)
    return tables.rows(setting).figures


def of_steps_that_are_expected_to_take_too_long(folder: Path) -> str:
    from gpu import tables

    budget = Budget(seconds=tables.FIRST_ROW_S - 1, clock=lambda: 0.0)
    setting = Setting(device=torch.device("cpu"), quick=True, folder=folder, budget=budget, keep=lambda found: None)
    try:
        tables.steps(setting)
    except Skipped as skipped:
        return str(skipped)
    return "ran"


def starts_of(gpus: int, folder: Path) -> list[dict[str, object]]:
    """How ranks would be started on a machine with so many GPUs."""
    torch.cuda.device_count = lambda: gpus
    setting = Setting(
        device=torch.device("cuda"), quick=False, folder=folder, budget=Budget(seconds=0), keep=lambda found: None
    )
    return [asdict(start) | {"jobs": list(placements._jobs(setting, start))} for start in placements.starts(setting)]


def main(folder: Path) -> None:
    gpu_check.PARTS[:] = [
        part("raises", raises),
        part("exits", exits),
        part("crashes", crashes),
        part("skips", skips),
        part("wrong-kernels", wrong_kernels),
        part("fine", fine),
        part("measures", fine, is_check=False),
        Part(name="lacks", summary="", run=fine, needs=("no_such_package",)),
    ]
    said = {
        "status": gpu_check.main(["--device", "cpu", "--minutes", "0", "--out", str(folder)]),
        "only": gpu_check.main(["--device", "cpu", "--only", "fine", "measures", "--out", str(folder / "only")]),
        "hangs": of_a_part_that_hangs(),
        "rows": of_a_budget_that_ends_after_a_row(folder),
        "starts": {gpus: starts_of(gpus, folder) for gpus in (1, 2, 4)},
        "steps": of_steps_that_are_expected_to_take_too_long(folder),
    }
    (folder / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

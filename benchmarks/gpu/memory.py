"""What the memory plan promises against what the GPU's allocator has seen, and what happens when memory runs out.

A CPU's memory is not measured: there the same is run on a small network, with an allocator that stands in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any

import torch
from measuring import table_lines

from gpu.coefficients import FROM_FLOAT32, ROUNDING
from gpu.jobs import Done, Job, apart, make
from gpu.parts import Found, Setting, require
from ladle_engine import EngineError
from ladle_engine.directions.checkpoint_directions import OFFLOADED
from ladle_engine.directions.formats import ROW_PRECISIONS, row_bytes
from ladle_engine.directions.resident_rows import ResidentRows
from ladle_engine.placements.memory_plan import PRECISIONS, USABLE_SHARE
from ladle_engine.placements.memory_probe import PeakMemory

CHECKPOINTS = 6
TOO_LITTLE_BYTES = 40 << 20
"""For a model of 65 MB."""


def net_of(setting: Setting) -> str:
    return "wide" if setting.on_gpu else "perceptron"


def memory(setting: Setting) -> Found:
    make(setting.folder, net_of(setting), checkpoints=CHECKPOINTS)
    found = Found()
    precisions = [precision for precision in PRECISIONS if setting.on_gpu or precision != OFFLOADED]
    done = {precision: _measured(setting, precision, found) for precision in precisions}
    found.lines = table_lines(
        ("precision", "planned, MB", "peak, MB", "peak / planned"),
        (
            [precision, *(f"{each[name] / 1e6:.0f}" for name in ("planned", "peak")), f"{each['ratio']:.2f}"]
            for precision, each in found.figures.items()
        ),
    )
    setting.keep(found)
    worst = max(each["ratio"] for each in found.figures.values())
    if setting.on_gpu:
        _require_as_planned(found.figures)
    found.says = (
        f"the peak is at most {worst:.2f} of the plan" if setting.on_gpu else "with an allocator that stands in"
    )
    found.lines += ["", _lowers_the_precision(setting, done, found), "", _refuses(setting)]
    return found


def _measured(setting: Setting, precision: str, found: Found) -> Done:
    if setting.on_gpu:
        torch.cuda.empty_cache()
    with PeakMemory(setting.device) as peak:
        done = _run(setting, precision, precision)
    plan = done.report["memory"]
    require(plan["precision"] == precision, f"{precision} was asked for, but {plan['precision']} taken")
    # The model stood in memory when the plan was made, so it is no part of it.
    planned = plan["needed_bytes"] + 4 * done.report["num_parameters"]
    found.figures[precision] = {"planned": planned, "peak": peak.bytes, "ratio": round(peak.bytes / planned, 3)}
    return done


def _run(setting: Setting, precision: str, name: str) -> Done:
    job = Job(net=net_of(setting), method="twa", options={"steps": 10, "rescale": False}, precision=precision)
    return job.run(setting.folder, setting.device, setting.folder / name)


def _require_as_planned(figures: dict[str, Any]) -> None:
    """A plan may be exceeded by what a plan leaves free, and a smaller precision must really take less."""
    over = [name for name, each in figures.items() if each["peak"] * USABLE_SHARE > each["planned"]]
    require(not over, f"a job must stay within its plan / {USABLE_SHARE}, but does not at: {', '.join(over)}")
    for larger, smaller in pairwise(ROW_PRECISIONS):
        saved, promised = (figures[larger][name] - figures[smaller][name] for name in ("peak", "planned"))
        require(saved > 0.5 * promised, f"{smaller} must save {promised:,} bytes over {larger}, but saves {saved:,}")


def _lowers_the_precision(setting: Setting, done: dict[str, Done], found: Found) -> str:
    """The plan sees the whole GPU and takes float32; the allocator is held to less than that needs."""
    peaks = [found.figures[name]["peak"] for name in ("float32", "bfloat16")]
    with held_to(sum(peaks) // 2 if setting.on_gpu else 0, setting):
        lowered = _run(setting, "auto", "lowered")
    precision, warnings = lowered.report["memory"]["precision"], " ".join(lowered.warnings)
    require(precision != "float32", "float32 must not have fitted, but did")
    require("ran out of memory" in warnings, f"a warning must say that memory ran out, but there is: {warnings!r}")
    difference = apart(lowered.coefficients, done["float32"].coefficients)
    bound = FROM_FLOAT32.get(precision, ROUNDING)
    require(difference <= bound, f"coefficients at {precision} must be within {bound}, but are {difference} away")
    found.figures["lowered"] = {"precision": precision, "difference": difference, "warnings": list(lowered.warnings)}
    return f"Held to less than float32 needs, the job went on with {precision}; it said: {warnings}"


def _refuses(setting: Setting) -> str:
    try:
        with held_to(TOO_LITTLE_BYTES if setting.on_gpu else 0, setting):
            _run(setting, "int4", "refused")
    except EngineError as error:
        require(error.code == "out-of-memory", f"the code must be out-of-memory, but is {error.code}: {error}")
        return f"Held to less than the model needs, the job was refused: {error}"
    raise AssertionError("a job without room for its model must be refused, but ended well")


def held_to(room_bytes: int, setting: Setting) -> AbstractContextManager[None]:
    """Inside, so much memory can be had beyond what is taken now; what is free is reported as before."""
    return allocator_held_to(room_bytes, setting.device) if setting.on_gpu else rows_held_to(room_bytes)


@contextmanager
def rows_held_to(room_bytes: int) -> Iterator[None]:
    """For a CPU: directions that take more cannot be had."""
    allocate = ResidentRows.allocate

    def held(precision: str, count: int, length: int, device: torch.device, *, pin: bool = False) -> ResidentRows:
        if count * row_bytes(precision, length) > room_bytes:
            raise torch.OutOfMemoryError("stands in for a GPU's")
        return allocate(precision, count, length, device, pin=pin)

    ResidentRows.allocate = held  # type: ignore[method-assign]  # for as long as the block lasts
    try:
        yield
    finally:
        ResidentRows.allocate = allocate  # type: ignore[method-assign]  # as it was


@contextmanager
def allocator_held_to(room_bytes: int, device: torch.device) -> Iterator[None]:
    """For a GPU."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info(device)
    share = (torch.cuda.memory_reserved(device) + room_bytes) / total
    torch.cuda.set_per_process_memory_fraction(share, device.index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device.index)
        torch.cuda.empty_cache()

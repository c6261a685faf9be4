"""Coefficients that the device trains are those that the CPU trains: at every precision, by every method."""

from __future__ import annotations

import torch
from measuring import table_lines

from gpu.jobs import Done, Job, apart, make
from gpu.parts import Found, Setting, require
from ladle_engine.directions.checkpoint_directions import OFFLOADED
from ladle_engine.placements.memory_plan import PRECISIONS

CPU = torch.device("cpu")
ROUNDING = 1e-5
"""What placements are held to (docs/placements.md)."""
FROM_FLOAT32 = {"bfloat16": 0.002, "int8": 0.006, "int4": 0.1}
"""What docs/placements.md says of the difference to float32, at most; of the other precisions it is rounding."""
LEAST_MOVE = 0.02

METHODS: dict[str, dict[str, object]] = {
    "twa": {},
    "twa-layerwise": {"groups": "tensors"},
    "twa-gram-schmidt": {"groups": "layers"},
    "pca": {"optimiser": "lbfgs", "passes": 8},
    "learned-soup": {},
    "random": {"dimensions": 4},
    "psgd": {},
}
"""With other options than the default, so that all optimisers and groupings take part."""
FEW_METHODS = ("twa-layerwise", "pca", "psgd")


def precisions(setting: Setting) -> Found:
    """Against the CPU's float32 within the documented bounds, and against the CPU's same precision to rounding."""
    make(setting.folder, "perceptron")
    exact = _run(setting, "float32", CPU, "exact")
    far = float(exact.coefficients.abs().max())
    require(far > LEAST_MOVE, f"coefficients must move to be compared, but moved by {far:.4f} at most")
    found, wrong = Found(figures={"moved": far}), []
    rows = []
    for precision in PRECISIONS:
        if precision == OFFLOADED and not setting.on_gpu:
            continue
        here = _run(setting, precision, setting.device, "here")
        same = exact if precision == OFFLOADED else _run(setting, precision, CPU, "cpu")
        from_exact = apart(here.coefficients, exact.coefficients)
        from_same = apart(here.coefficients, same.coefficients)
        bound = FROM_FLOAT32.get(precision, ROUNDING)
        used = here.report["memory"]["precision"]
        if used != precision or from_exact > bound or from_same > ROUNDING or here.warnings:
            wrong.append(f"{precision} ({'; '.join(here.warnings) or used})")
        found.figures[precision] = {"from_cpu_float32": from_exact, "bound": bound, "from_cpu_same": from_same}
        rows.append([precision, f"{from_exact:.1e}", f"{bound:g}", f"{from_same:.1e}"])
    found.lines = table_lines(("precision", "from the CPU's float32", "bound", "from the CPU's same precision"), rows)
    found.says = f"coefficients moved by {far:.2f}; the largest difference to the CPU is in the table"
    setting.keep(found)
    require(not wrong, f"coefficients must agree with the CPU's, but do not at: {', '.join(wrong)}")
    return found


def _run(setting: Setting, precision: str, device: torch.device, run: str) -> Done:
    return Job(precision=precision).run(setting.folder, device, setting.folder / f"{precision}-{run}")


def methods(setting: Setting) -> Found:
    """Every trained method on a plain network, and `twa` on one with BatchNorm, to rounding."""
    for net in ("perceptron", "batch-norm"):
        make(setting.folder / net, net)
    names = FEW_METHODS if setting.few else METHODS
    jobs = {name: _job(name, METHODS[name]) for name in names}
    jobs["twa, BatchNorm"] = Job(net="batch-norm", method="twa")
    found, wrong = Found(), []
    rows = []
    for name, job in jobs.items():
        folder = setting.folder / job.net
        here = job.run(folder, setting.device, setting.folder / f"{name}-here").coefficients
        there = job.run(folder, CPU, setting.folder / f"{name}-cpu").coefficients
        difference, far = apart(here, there), float(there.abs().max())
        found.figures[name] = {"difference": difference, "moved": far}
        rows.append([name, f"{far:.2f}", f"{difference:.1e}"])
        if difference > ROUNDING:
            wrong.append(name)
    found.lines = table_lines(("method", "moved by", "from the CPU's"), rows)
    found.says = f"{len(jobs)} methods; differs by {max(each['difference'] for each in found.figures.values()):.1e}"
    setting.keep(found)
    require(not wrong, f"coefficients must agree with the CPU's to {ROUNDING:g}, but do not for: {', '.join(wrong)}")
    return found


def _job(method: str, options: dict[str, object]) -> Job:
    common: dict[str, object] = {"steps": 20} if "passes" not in options else {}
    if method not in ("learned-soup", "random", "psgd"):
        common["rescale"] = False
    return Job(method=method, options=common | options)

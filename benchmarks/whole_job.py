"""What a whole job costs over the sum of its necessary parts: every file read once, K evaluations on the select split,
the steps that fit coefficients, one file written.

    python benchmarks/whole_job.py [--device cuda] [--cold] [--quick]

A wide small CNN of 6.4 million parameters (26 MB a file), trained a little on made images; `ladle_engine.average` with
`twa`, then with its default `auto`, and with an `auto` that evaluates every row on everything (see `deciding.py`).
Beside every job, in turn with it, the parts run as plain torch: as many forward
and backward passes as the job's methods took, one plain evaluation of every checkpoint. An untimed job comes first. The
files are in the page cache in both, so reading is what it costs to touch every byte; waiting for the disk is not in CPU
time, which is what is measured on a CPU. With `--cold` the checkpoints leave the page cache before each job and each
part, and wall-clock time is measured. How often a job reads all checkpoints, and opens one, is counted.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from deciding import BEFORE, NOW, Counted, deciding
from ladle_small_cnn import SmallCnn, SmallCnnTask
from measuring import clock, clock_text, device_name, held, median, parser_of, save, slug, wait
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor

from ladle_engine import average
from ladle_engine.progress import ProgressEvent, StageStarted
from ladle_engine.storage.input_file import COUNTS
from ladle_engine.storage.page_cache import leave_cache
from ladle_engine.tasks.examples import split
from ladle_engine.versions import versions

EVERYTHING = "auto, everything"
METHODS = ("twa", "auto", EVERYTHING)
CONFIG: dict[str, Any] = {"num_channels": 1, "num_classes": 10, "image_size": 28, "batch_norm": False}
WIDTH, QUICK_WIDTH = 128, 64
BATCH_SIZE = 128
GOAL = 1.25
NECESSARY = {
    "read every file once": ("discover", "check"),
    "evaluate every checkpoint": ("evaluate best",),
    "write one file": ("write",),
}
"""Which stages do the work of which part; `fit steps` are the trainings of the methods with steps."""
SMALL = 0.01
"""Of the parts: stages that go beyond them by less are not named."""


def main() -> None:
    parser = parser_of(__doc__, quick="four checkpoints of 6 MB, a quarter of the images, once")
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--checkpoints", type=int, default=8)
    parser.add_argument("--images", type=int, default=2048, help="in the validation set")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--cold", action="store_true", help="read from the disk, and measure wall-clock time")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.checkpoints, arguments.images, arguments.repeats = 4, 512, 1
    CONFIG["width"] = QUICK_WIDTH if arguments.quick else WIDTH
    device = torch.device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(arguments.threads)
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, arguments.checkpoints, arguments.images)
        file_bytes = next((folder / "checkpoints").glob("*.safetensors")).stat().st_size
        # Imports and compiled kernels are there afterwards.
        run_job(folder, arguments.methods[0], device, folder / "untimed")
        jobs = [
            compare(folder, method, device, arguments.repeats, console, cold=arguments.cold)
            for method in arguments.methods
        ]
    result = {
        "device": device_name(device),
        "threads": arguments.threads if device.type == "cpu" else None,
        "checkpoints": arguments.checkpoints,
        "file_bytes": file_bytes,
        "images": arguments.images,
        "cold": arguments.cold,
        "quick": arguments.quick,
        "versions": versions(),
        "jobs": jobs,
    }
    for job in jobs:
        console.print(table_of(job), *verdicts(job), sep="\n")
    name = f"whole-job-{slug(device_name(device))}{'-cold' if arguments.cold else ''}"
    console.print(save(name, result, markdown(result), quick=arguments.quick))


def make(folder: Path, count: int, num_images: int) -> None:
    """`val.npz`, and a checkpoint after every few steps of SGD."""
    torch.manual_seed(0)
    labels = torch.arange(num_images) % CONFIG["num_classes"]
    prototypes = torch.rand(CONFIG["num_classes"], 28, 28)
    images = (prototypes[labels] + 0.8 * torch.rand(num_images, 28, 28)) / 1.8
    np.savez(folder / "val.npz", images=(255 * images).to(torch.uint8).numpy(), labels=labels.numpy())
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "config.json").write_text(json.dumps({"ladle_task": "small-cnn", **CONFIG}))
    model = SmallCnn(**CONFIG)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    for number in range(count):
        chosen = torch.randint(num_images, (32,))
        optimiser.zero_grad()
        F.cross_entropy(model(images[chosen, None]), labels[chosen]).backward()
        optimiser.step()
        save_file(model.state_dict(), folder / "checkpoints" / f"step-{number + 1:03}.safetensors")


def compare(
    folder: Path, method: str, device: torch.device, repeats: int, console: Console, *, cold: bool
) -> dict[str, Any]:
    """The job and its parts, in turn; the parts come first once, which warms up."""
    runs = []
    parts_of(folder, device, steps=2)
    for repeat in range(repeats):
        load = os.getloadavg()[0]
        job = run_job(folder, method, device, folder / f"{method}-{repeat}", cold=cold)
        parts = parts_of(folder, device, job["fit_steps"], cold=cold)
        runs.append({"load": round(load, 1), "job": job, "parts": parts, "ratio": job["seconds"] / sum(parts.values())})
        console.print(f"{method}: {job['seconds']:.1f} s over {sum(parts.values()):.1f} s is {runs[-1]['ratio']:.2f}")
    names = dict.fromkeys(stage for run in runs for stage in run["job"]["stages"])
    stages = {stage: median(run["job"]["stages"].get(stage, 0.0) for run in runs) for stage in names}
    parts = {part: median(run["parts"][part] for run in runs) for part in runs[0]["parts"]}
    return {
        "method": method,
        "fit_steps": runs[0]["job"]["fit_steps"],
        "evaluated": runs[0]["job"]["evaluated"],
        "walks": runs[0]["job"]["walks"],
        "readings": runs[0]["job"]["readings"],
        "openings": runs[0]["job"]["openings"],
        "seconds": median(run["job"]["seconds"] for run in runs),
        "stages": stages,
        "parts": parts,
        "beyond": beyond(stages, parts, runs[0]["job"]["fitted"]),
        "averages": runs[0]["job"]["candidates"] - 1,
        "floor": floor(parts, len(checkpoint_files(folder)), runs[0]["job"]["candidates"] - 1),
        "ratio": median(run["ratio"] for run in runs),
        "runs": runs,
    }


def beyond(stages: Mapping[str, float], parts: Mapping[str, float], fitted: Iterable[str]) -> dict[str, float]:
    """Seconds that the job takes over its parts, by stage or by part, the most first."""
    work = {**NECESSARY, "fit steps": tuple(f"train {method}" for method in fitted)}
    over = {part: sum(stages.get(stage, 0.0) for stage in doing) - parts[part] for part, doing in work.items()}
    over |= {stage: taken for stage, taken in stages.items() if not any(stage in doing for doing in work.values())}
    return dict(sorted(over.items(), key=lambda pair: -pair[1]))


def floor(parts: Mapping[str, float], checkpoints: int, averages: int) -> float:
    """Times the parts, if all that came to them were one evaluation of each average on the select split."""
    one = parts["evaluate every checkpoint"] / checkpoints
    return 1 + averages * one / sum(parts.values())


def verdicts(job: Mapping[str, Any]) -> list[str]:
    parts_s = sum(job["parts"].values())
    named = [f"{name} {taken:.2f}" for name, taken in job["beyond"].items() if taken > SMALL * parts_s]
    return [
        f"`{job['method']}` takes {job['ratio']:.2f} times its parts; the goal of {GOAL} {held(job['ratio'] <= GOAL)}.",
        f"Beyond its parts, in s (a part's name: what its stages take longer): {', '.join(named) or 'nothing'}.",
        f"Judging its {job['averages']} average(s) on the select split, and nothing else, would make that "
        f"{job['floor']:.2f} times.",
        f"It reads all checkpoints {job['readings']:.2f} times, and opens each {job['openings']} time(s).",
    ]


def seconds_now(device: torch.device, cold: bool) -> float:
    """Who waits for the disk takes no CPU time."""
    return time.perf_counter() if cold else clock(device)


def checkpoint_files(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("*.safetensors"))


def leave_page_cache(files: Iterable[Path]) -> None:
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            leave_cache(opened, 0, 0)


def run_job(folder: Path, method: str, device: torch.device, output: Path, *, cold: bool = False) -> dict[str, Any]:
    """Seconds in all and by stage, from one `StageStarted` to the next, and what was read."""
    marks: list[tuple[float, str]] = []
    files = checkpoint_files(folder)
    if cold:
        leave_page_cache(files)
    COUNTS.clear()

    def note(event: ProgressEvent) -> None:
        if isinstance(event, StageStarted):
            marks.append((seconds_now(device, cold), event.stage + (f" {event.method}" if event.method else "")))

    started = seconds_now(device, cold)
    with deciding(BEFORE if method == EVERYTHING else NOW):
        average(
            folder / "checkpoints",
            folder / "val.npz",
            output=output,
            method="auto" if method == EVERYTHING else method,
            # By itself, so that it also runs where no task is installed.
            task=SmallCnnTask.from_options({"batch_size": BATCH_SIZE}),
            device=device,
            progress=note,
        )
        ended = seconds_now(device, cold)
    stages: dict[str, float] = {"before the first stage": marks[0][0] - started}
    for (start, stage), (stop, _) in zip(marks, [*marks[1:], (ended, "")], strict=True):
        stages[stage] = stages.get(stage, 0.0) + stop - start
    report = json.loads((output / "report.json").read_text())
    return {
        "seconds": ended - started,
        "stages": stages,
        "fit_steps": sum(len(candidate["curve"]) for candidate in report["candidates"]),
        "candidates": len(report["candidates"]),
        "fitted": [candidate["method"] for candidate in report["candidates"] if candidate["curve"]],
        "evaluated": sum(each["select"]["examples"] for each in report["checkpoints"] if each["select"]),
        "walks": Counted.newest.num_judged / report["splits"]["select"],
        "readings": sum(COUNTS.bytes[file] for file in files) / sum(file.stat().st_size for file in files),
        "openings": max(COUNTS.opens[file] for file in files),
    }


def validation_set(folder: Path) -> tuple[Tensor, Tensor]:
    """float32 [N, 1, 28, 28] and int64 [N]."""
    with np.load(folder / "val.npz") as arrays:
        return torch.from_numpy(arrays["images"])[:, None].to(torch.float32) / 255, torch.from_numpy(arrays["labels"])


def parts_of(folder: Path, device: torch.device, steps: int, *, cold: bool = False) -> dict[str, float]:
    """Seconds of what no job can do without, as plain torch."""
    files = checkpoint_files(folder)
    if cold:
        leave_page_cache(files)
    images, labels = validation_set(folder)
    fit, select = split(len(labels), 0.5, 0)
    model = SmallCnn(**CONFIG).to(device).eval()
    seconds: dict[str, float] = {}

    def timed(part: str, started: float) -> None:
        wait(device)
        seconds[part] = seconds.get(part, 0.0) + seconds_now(device, cold) - started

    def loss_over(indices: Tensor) -> Tensor:
        return F.cross_entropy(model(images[indices].to(device)), labels[indices].to(device))

    for file in files:
        started = seconds_now(device, cold)
        # What is memory-mapped has not been read before it is copied.
        model.load_state_dict({name: tensor.clone() for name, tensor in load_file(file).items()})
        timed("read every file once", started)
        started = seconds_now(device, cold)
        with torch.no_grad():
            for batch in select.split(BATCH_SIZE):
                loss_over(batch)
        timed("evaluate every checkpoint", started)
    started = seconds_now(device, cold)
    for step in range(steps):
        chosen = fit[torch.arange(step * BATCH_SIZE, (step + 1) * BATCH_SIZE) % len(fit)]
        model.zero_grad()
        loss_over(chosen).backward()
    timed("fit steps", started)
    started = seconds_now(device, cold)
    output = folder / "plain.safetensors"
    save_file({name: tensor.cpu() for name, tensor in model.state_dict().items()}, output)
    with output.open("rb") as written:
        os.fsync(written.fileno())
    timed("write one file", started)
    return seconds


def table_of(job: Mapping[str, Any]) -> Table:
    table = Table("", "s", "share of the job", title=f"{job['method']}: {job['ratio']:.2f} times its parts")
    for name, taken in (*job["stages"].items(), ("the job", job["seconds"])):
        table.add_row(name, f"{taken:.2f}", f"{100 * taken / job['seconds']:.0f} %")
    table.add_section()
    for name, taken in (*job["parts"].items(), ("the parts", sum(job["parts"].values()))):
        table.add_row(name, f"{taken:.2f}", f"{100 * taken / job['seconds']:.0f} %")
    return table


def markdown(result: Mapping[str, Any]) -> str:
    lines = [
        f"# Whole job on {result['device']}",
        "",
        f"Made by `python benchmarks/whole_job.py{' --cold' if result['cold'] else ''}"
        f"{' --quick' if result['quick'] else ''}`: {result['checkpoints']} checkpoints of "
        f"{result['file_bytes'] / 1e6:.0f} MB{', from the disk' if result['cold'] else ''}, {result['images']} images. "
        f"A job's {'wall-clock time' if result['cold'] else clock_text(result['threads'])} by stage, and beside it, in "
        f"turn with it, its necessary parts as plain torch; medians. The goal is {GOAL} times the parts.",
    ]
    for job in result["jobs"]:
        ratios = [run["ratio"] for run in job["runs"]]
        loads = ", ".join(str(run["load"]) for run in job["runs"])
        lines += [
            "",
            f"## `{job['method']}`: {job['ratio']:.2f} times its parts",
            "",
            f"{len(ratios)} run(s), {min(ratios):.2f} to {max(ratios):.2f}; load average {loads}. {job['fit_steps']} "
            f"fit steps. Of {result['checkpoints'] * result['images'] // 2:,} evaluations of a checkpoint on an "
            f"example of the select split the job made {job['evaluated']:,}. All in all, it evaluated models "
            f"{job['walks']:.1f} times the number of examples of that split.",
            "",
            *verdicts(job),
            "",
            "| | s | share of the job |",
            "|---|---|---|",
        ]
        for name, taken in (
            *job["stages"].items(),
            ("**the job**", job["seconds"]),
            *job["parts"].items(),
            ("**the parts**", sum(job["parts"].values())),
        ):
            lines.append(f"| {name} | {taken:.2f} | {100 * taken / job['seconds']:.0f} % |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

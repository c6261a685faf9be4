"""What it costs a training to keep checkpoints: `python benchmarks/keeping.py`.

A stack of linear layers is trained on the CPU with SGD. A checkpoint is copied in the training's thread, which holds up
the training, and written by another one, which does not where a core is idle. Both are timed on their own, as CPU time;
the copy over ten or a hundred steps is the share of step time. As a check, ten steps with a `CheckpointKeeper` and ten
without one take turns.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measuring import device_name, parser_of, save, table_lines
from torch import nn

from ladle.callbacks import CheckpointKeeper

WIDTH = 1024
BATCH = 32
EVERY = 10


def net(million: int) -> nn.Sequential:
    """About so many million parameters."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(round(million * 1e6 / WIDTH**2))]
    return nn.Sequential(*layers)


def steps_of(model: nn.Module) -> Iterator[int]:
    """Trains for ever; yields the number of each step when it is done."""
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in itertools.count(1):
        loss = model(torch.randn(BATCH, WIDTH)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield step


def seconds(
    steps: Iterator[int], count: int, model: nn.Module, keeper: CheckpointKeeper, keep: bool
) -> dict[str, float]:
    """Per step: of the training's thread, of the process, and by the wall."""
    began = time.thread_time(), time.process_time(), time.perf_counter()
    for step in itertools.islice(steps, count):
        if keep:
            keeper.step(model, step)
        else:
            keeper.is_due(step)
    ended = time.thread_time(), time.perf_counter()
    keeper.flush()
    return {
        "thread_s": (ended[0] - began[0]) / count,
        "process_s": (time.process_time() - began[1]) / count,
        "wall_s": (ended[1] - began[2]) / count,
    }


def once(model: nn.Module, keeper: CheckpointKeeper, step: int) -> dict[str, float]:
    """CPU seconds of one checkpoint: of the copy, and of what writes it."""
    began = time.thread_time()
    keeper.keep_model(step, model)
    copied, writing = time.thread_time() - began, time.process_time()
    keeper.flush()
    return {"copy_s": copied, "write_s": time.process_time() - writing}


def measure(million: int, rounds: int, folder: Path) -> dict[str, Any]:
    model = net(million)
    steps = steps_of(model)
    keeper = CheckpointKeeper(folder, every=EVERY, last=2)
    # The first copy takes new memory, which later ones use again.
    keeper.keep_model(0, model)
    seconds(steps, 2, model, keeper, keep=False)
    turns: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
    alone = []
    for number in range(1, rounds + 1):
        turns["without"].append(seconds(steps, EVERY, model, keeper, keep=False))
        turns["with"].append(seconds(steps, EVERY, model, keeper, keep=True))
        alone.append(once(model, keeper, number * 10**6))
    keeper.close()
    shutil.rmtree(folder)
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "step_s": statistics.median(each["thread_s"] for each in turns["without"]),
        "in_turns": statistics.median(
            kept["thread_s"] / bare["thread_s"] - 1 for kept, bare in zip(turns["with"], turns["without"], strict=True)
        ),
        **{name: statistics.median(each[name] for each in alone) for name in ("copy_s", "write_s")},
        "turns": turns,
        "alone": alone,
    }


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    shares = [f"{100 * row['copy_s'] / (every * row['step_s']):.2f} %" for every in (10, 100)]
    times = [f"{1000 * row[name]:.0f}" for name in ("step_s", "copy_s", "write_s")]
    return (f"{row['parameters'] / 1e6:.0f} M", *times, *shares, f"{100 * row['in_turns']:.1f} %")


def main() -> None:
    parser = parser_of(__doc__, quick="small models", cpu_only=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where checkpoints are written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for million in (2, 4) if arguments.quick else (25, 100):
            rows.append(measure(million, arguments.rounds, Path(folder) / "kept"))
            print(*cells(rows[-1]), flush=True)
    header = ("parameters", "step, ms", "copy, ms", "writing, ms", "share, every 10", "every 100", "in turns, every 10")
    machine = device_name(torch.device("cpu"))
    text = "\n".join(
        [
            "# What keeping checkpoints costs",
            "",
            f"Float32 weights, {BATCH} examples per step, one thread, on {machine}. CPU time, medians of "
            f"{arguments.rounds} rounds. The copy holds up the training; another thread writes. The share is the copy "
            "over 10 or 100 steps. In turns is how much longer ten steps with one checkpoint took than ten without.",
            "",
            *table_lines(header, map(cells, rows)),
            "",
        ]
    )
    print(text)
    print(save("keeping", {"machine": machine, "rows": rows}, text, quick=arguments.quick))


if __name__ == "__main__":
    main()

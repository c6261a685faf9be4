"""What a merge curve of 100 checkpoints reads and takes: `python benchmarks/merge_curve.py`.

Networks of one hidden layer on random data, as safetensors files, in a process of its own. One with BatchNorm as well,
whose statistics ask for the mean of all checkpoints. Readings are the bytes that the job read of each checkpoint, over
its size. Beside them: how many readings it would be if each average that is tried were summed up from its own files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import device_name, parser_of, save, table_lines
from safetensors.torch import save_file

MEASURED = """
import json, resource, sys, time
from pathlib import Path
import torch
from ladle_engine import curve
from ladle_engine.storage.input_file import COUNTS
sys.path.insert(0, sys.argv[4])
from merge_curve import network
folder, output, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.manual_seed(1)
x = torch.randn(1024, 64)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x.sum(1).sign().long().clamp(0)), batch_size=256)
def loss(model, batch):
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began, cpu = time.monotonic(), time.process_time()
curve(folder, output=output, model=network(kind, int(sys.argv[5])), loss=loss, data=data, device="cpu")
took, took_cpu = time.monotonic() - began, time.process_time() - cpu
readings = [COUNTS.bytes[path] / path.stat().st_size for path in folder.iterdir()]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"most": max(readings), "mean": sum(readings) / len(readings), "s": took, "cpu_s": took_cpu,
                  "more_mb": peak / 1024}))
"""
STEP = 10


def network(kind: str, width: int) -> torch.nn.Module:
    """Two classes from 64 numbers."""
    last = torch.nn.Linear(width, 64)
    middle = [torch.nn.BatchNorm1d(64)] if kind == "batch norm" else []
    return torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.ReLU(), last, *middle, torch.nn.Linear(64, 2))


def main() -> None:
    parser = parser_of(__doc__, quick="20 checkpoints of 0.5 MB", cpu_only=True)
    arguments = parser.parse_args()
    count, width = (20, 1000) if arguments.quick else (100, 4000)
    rows: list[dict[str, Any]] = []
    for kind in ("plain", "batch norm"):
        with tempfile.TemporaryDirectory() as folder:
            size = write(Path(folder) / "run", kind, count, width)
            rows.append({"network": kind, "mb": size / 1e6, **measure(Path(folder), kind, width)})
    averages, one_by_one = tried(count)
    result = {
        "machine": device_name(torch.device("cpu")), "checkpoints": count, "averages": averages,
        "readings_one_by_one": one_by_one, "rows": rows,
    }  # fmt: skip
    lines = table_lines(
        ("network", "MB each", "readings, most", "readings, mean", "s", "CPU s", "more memory, MB"),
        [
            (row["network"], *(f"{row[key]:.2f}" for key in ("mb", "most", "mean")),
             *(f"{row[key]:.0f}" for key in ("s", "cpu_s", "more_mb")))
            for row in rows
        ],
    )  # fmt: skip
    told = (
        f"{averages} averages are tried. Each summed up from its own files, they would be {one_by_one:.0f} readings of "
        f"the run."
    )
    text = "\n".join(
        [f"# The merge curve of {count} checkpoints", "", f"On {result['machine']}. {told}", "", *lines, ""]
    )
    print(text)
    print(save("merge-curve", result, text, quick=arguments.quick))


def write(folder: Path, kind: str, count: int, width: int) -> int:
    """Checkpoints that wander, and the size of one in bytes."""
    folder.mkdir()
    torch.manual_seed(0)
    state = {name: tensor.clone() for name, tensor in network(kind, width).state_dict().items()}
    for step in range(STEP, STEP * count + 1, STEP):
        for name, tensor in state.items():
            if tensor.is_floating_point() and "running" not in name:
                tensor.mul_(0.98).add_(0.01 * torch.randn(tensor.shape))
        save_file(state, folder / f"step-{step}.safetensors")
    return (folder / f"step-{STEP}.safetensors").stat().st_size


def measure(folder: Path, kind: str, width: int) -> dict[str, Any]:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", MEASURED, str(folder / "run"), str(folder / "out"), kind, here, str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def tried(count: int) -> tuple[int, float]:
    """How many averages a curve tries, and the readings of the run that their windows add up to."""
    from ladle_engine.pipeline.along.schedule import CurveOptions, Schedule

    steps = [float(STEP * (index + 1)) for index in range(count)]
    schedule = Schedule(positions=steps, options=CurveOptions())
    lengths = [end - each.first + 1 for end in schedule.ends for each in schedule.tried_at(end)]
    return len(lengths), sum(lengths) / count


if __name__ == "__main__":
    main()

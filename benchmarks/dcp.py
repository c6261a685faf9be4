"""What averaging DCP checkpoints costs beside the same as safetensors: `python benchmarks/dcp.py`.

Four checkpoints of one network, in float32: as safetensors files; as DCP of one process, with the state of AdamW; and
as DCP of four ranks of FSDP2, by rows and by columns, with the same state. Each is averaged in a process of its own:
peak memory over that before a second call, processor time, and how many bytes of the files were read. The page cache is
warm. Medians of three.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from measuring import device_name, parser_of, save, table_lines
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

K = 4
RANKS = 4
REPEATS = 3
LAYOUTS = ("safetensors", "DCP, one process", "DCP, rows over 4 ranks", "DCP, columns over 4 ranks")
MEASURED = """
import json, pathlib, sys, time
from ladle_engine import combine_checkpoints
from ladle_engine.storage.input_file import COUNTS
def memory_kb(what):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1])
# What is imported when it is needed first, and torch's own threads, are there before.
combine_checkpoints(sys.argv[1], output=sys.argv[2] + "-first")
COUNTS.clear()
pathlib.Path("/proc/self/clear_refs").write_text("5")
before, began = memory_kb("VmRSS"), time.process_time()
combine_checkpoints(sys.argv[1], output=sys.argv[2])
print(json.dumps({"memory_mb": (memory_kb("VmHWM") - before) / 1024, "cpu_s": time.process_time() - began,
    "read_mb": sum(COUNTS.bytes.values()) / 1e6}))
"""


def weights(seed: int, size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"layer{number}.weight": (size, size) for number in range(8)} | {
        f"layer{n}.bias": (size,) for n in range(8)
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def state_of(tensors: dict[str, Any]) -> dict[str, Any]:
    moments = {name: {"exp_avg": tensor, "exp_avg_sq": tensor} for name, tensor in tensors.items()}
    return {"model": tensors, "optim": {"state": moments}}


def write(folder: Path, layout: str, size: int) -> None:
    if "ranks" in layout:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}", __file__]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "LADLE_BENCH": str(folder)}
        environment |= {"LADLE_BENCH_SIZE": str(size), "LADLE_BENCH_DIM": "0" if "rows" in layout else "1"}
        subprocess.run(command, check=True, env=environment, capture_output=True)
        return
    folder.mkdir()
    for seed in range(K):
        if layout == "safetensors":
            save_file(weights(seed, size), folder / f"step-{seed}.safetensors")
        else:
            dcp.save(state_of(weights(seed, size)), checkpoint_id=folder / f"step-{seed}", no_dist=True)  # type: ignore[attr-defined]


def write_as_rank(folder: Path, size: int, dim: int) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (RANKS,))
    for seed in range(K):
        shared = {
            name: distribute_tensor(tensor, mesh, [Shard(min(dim, tensor.ndim - 1))])
            for name, tensor in weights(seed, size).items()
        }
        dcp.save(state_of(shared), checkpoint_id=folder / f"step-{seed}")  # type: ignore[attr-defined]
    dist.barrier()
    os._exit(0)


def measure(folder: Path, output: Path) -> dict[str, float]:
    command = [sys.executable, "-c", MEASURED, str(folder)]
    found = []
    for number in range(REPEATS):
        done = subprocess.run([*command, f"{output}-{number}"], check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def main() -> None:
    arguments = parser_of(__doc__, quick="a network of 2 M numbers", cpu_only=True).parse_args()
    size = 512 if arguments.quick else 2048
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, layout in enumerate(LAYOUTS):
            place = Path(folder) / f"layout-{number}"
            write(place, layout, size)
            measured = measure(place, Path(folder) / f"out-{number}")
            base = rows[0] if rows else measured
            ratios = {
                "memory_ratio": measured["memory_mb"] / base["memory_mb"],
                "cpu_ratio": measured["cpu_s"] / base["cpu_s"],
            }
            rows.append({"layout": layout, **measured, **ratios})
    model_mb = 8 * (size * size + size) * 4 / 1e6
    result = {"machine": device_name(torch.device("cpu")), "checkpoints": K, "model_mb": model_mb, "rows": rows}
    lines = table_lines(
        ("layout", "memory, MB", "beside safetensors", "processor, s", "beside safetensors", "read, MB"),
        [
            (row["layout"], f"{row['memory_mb']:.0f}", f"{row['memory_ratio']:.2f}", f"{row['cpu_s']:.2f}",
             f"{row['cpu_ratio']:.2f}", f"{row['read_mb']:.0f}")
            for row in rows
        ],
    )  # fmt: skip
    text = f"# Averaging {K} checkpoints of {model_mb:.0f} MB\n\nOn {result['machine']}, one thread.\n\n"
    text += "\n".join(lines) + "\n"
    print(text)
    save("dcp", result, text, quick=arguments.quick)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if "LADLE_BENCH" in os.environ:
        write_as_rank(
            Path(os.environ["LADLE_BENCH"]), int(os.environ["LADLE_BENCH_SIZE"]), int(os.environ["LADLE_BENCH_DIM"])
        )
    main()

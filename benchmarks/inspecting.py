"""How long it takes to inspect a folder of 300 checkpoints: `python benchmarks/inspecting.py`.

A small ViT of transformers with 200 tensors, as safetensors files, Trainer's folders, and files of `torch.save`: of
state dicts alone, whose pickles are all the same, and with an epoch and a loss beside. Each is inspected in processes
of their own: seconds to import, then the first call and the third, which finds all of transformers' modules loaded. CPU
time, which does not count what others on the machine do. The page cache is warm.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import device_name, parser_of, save, table_lines
from safetensors.torch import save_file

TARGET_S = 1.0
TIMED = """
import json, resource, sys, time
began = time.process_time()
from ladle_engine import inspect
import transformers
from transformers import AutoModelForImageClassification
from ladle_engine.tasks.installed import load_tasks
load_tasks()
imported = time.process_time()
def timed():
    start = time.process_time()
    found = inspect(sys.argv[1])
    assert len(found.checkpoints) == int(sys.argv[2]), len(found.checkpoints)
    assert found.usable and found.plan.model == "ViTForImageClassification", found.problems
    return time.process_time() - start
seconds = [timed() for _ in range(3)]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"import_s": imported - began, "first_s": seconds[0], "again_s": seconds[2], "peak_kb": peak}))
"""


def main() -> None:
    parser = parser_of(__doc__, quick="30 checkpoints", cpu_only=True)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    count = 30 if arguments.quick else 300
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for layout in ("safetensors", "trainer", "pickle", "pickle with an epoch"):
            path = Path(folder) / layout
            write(path, layout, count)
            rows.append({"layout": layout, "checkpoints": count, **measure(path, count, arguments.repeats)})
    result = {"machine": device_name(torch.device("cpu")), "target_s": TARGET_S, "rows": rows}
    header = ("layout", "checkpoints", "imports, s", "first call, s", "third call, s", "peak memory, MB")
    lines = table_lines(
        header,
        [
            (row["layout"], str(count), f"{row['import_s']:.1f}", f"{row['first_s']:.2f}", f"{row['again_s']:.2f}",
             f"{row['peak_kb'] / 1000:.0f}")
            for row in rows
        ],
    )  # fmt: skip
    text = "\n".join(
        [f"# Inspecting {count} checkpoints", "", f"On {result['machine']}, CPU time with one thread.", "", *lines, ""]
    )
    print(text)
    print(save("inspect", result, text, quick=arguments.quick))


def write(folder: Path, layout: str, count: int) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=32, num_hidden_layers=12, num_attention_heads=2, intermediate_size=64, image_size=32)
    state = ViTForImageClassification(config).state_dict()
    config.architectures = ["ViTForImageClassification"]
    for step in range(10, 10 * count + 1, 10):
        moved = {name: tensor + torch.randn(tensor.shape) for name, tensor in state.items()}
        own = folder / f"checkpoint-{step}" if layout == "trainer" else folder
        own.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(own)
        if layout == "trainer":
            save_file(moved, own / "model.safetensors", {"format": "pt"})
            (own / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        elif layout == "pickle":
            torch.save(moved, own / f"step-{step}.pt")
        elif layout == "pickle with an epoch":
            torch.save({"model": moved, "epoch": step, "loss": 1 / step}, own / f"step-{step}.pt")
        else:
            save_file(moved, own / f"step-{step}.safetensors", {"format": "pt"})


def measure(folder: Path, count: int, repeats: int) -> dict[str, float]:
    command = [sys.executable, "-c", TIMED, str(folder), str(count)]
    found = [json.loads(subprocess.check_output(command, text=True).splitlines()[-1]) for _ in range(repeats)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


if __name__ == "__main__":
    main()

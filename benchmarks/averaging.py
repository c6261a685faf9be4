"""Uniform averages of whole folders: time and memory of Ladle and of other tools, beside a plain read and write.

    python benchmarks/averaging.py            8 x 400 MB in one file each, and 4 x 800 MB in 20 shards each
    python benchmarks/averaging.py --quick    the same with small files

Every tool runs in a fresh process with one thread of torch, in turn, for several rounds; the table has medians. Time
and memory are counted from after the imports. mergekit is installed into `.cache/venv-mergekit`. Checkpoints are random
numbers in a Llama's shapes, kept in `.cache/averaging/`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import held, parser_of, save, table_lines

# A child runs this file in mergekit's environment: what that lacks is imported where it is used.

REPOSITORY = Path(__file__).resolve().parents[1]
CACHE = REPOSITORY / ".cache" / "averaging"
MERGEKIT = REPOSITORY / ".cache" / "venv-mergekit"
BLOCK_BYTES = 8 << 20
SAMPLE_EVERY_S = 0.005
FLOOR, LADLE = "plain read and write", "Ladle"
GOAL_TIMES, GOAL_TENSORS = 1.3, 3
"""Of the floor's time, and of the largest tensor's memory."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """K checkpoints of a Llama with tied embeddings."""

    name: str
    checkpoints: int
    shards: int
    dtype: str
    width: int
    inner: int
    layers: int
    vocabulary: int

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        width, inner = self.width, self.inner
        yield "model.embed_tokens.weight", (self.vocabulary, width)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            for projection in "qkvo":
                yield f"{prefix}self_attn.{projection}_proj.weight", (width, width)
            yield f"{prefix}mlp.gate_proj.weight", (inner, width)
            yield f"{prefix}mlp.up_proj.weight", (inner, width)
            yield f"{prefix}mlp.down_proj.weight", (width, inner)
            yield f"{prefix}input_layernorm.weight", (width,)
            yield f"{prefix}post_attention_layernorm.weight", (width,)
        yield "model.norm.weight", (width,)

    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.width // 64,
            "num_key_value_heads": self.width // 64,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": True,
            "torch_dtype": self.dtype,
        }


def cases(quick: bool) -> list[Case]:
    small = {"width": 128, "inner": 256, "layers": 20, "vocabulary": 4000}
    one = small if quick else {"width": 768, "inner": 2048, "layers": 10, "vocabulary": 38_000}
    sharded = small if quick else {"width": 1024, "inner": 2816, "layers": 27, "vocabulary": 52_000}
    size = "quick-" if quick else ""
    return [
        Case(name=f"{size}one-file", checkpoints=8, shards=1, dtype="float32", **one),
        Case(name=f"{size}20-shards", checkpoints=4, shards=20, dtype="bfloat16", **sharded),
    ]


def make(case: Case) -> Path:
    """The folder of checkpoints, made unless it is there."""
    import torch
    from safetensors.torch import save_file

    folder = CACHE / case.name
    if (folder / "done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    dtype = getattr(torch, case.dtype)
    generator = torch.Generator().manual_seed(0)
    start = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in case.shapes()}
    for number in range(1, case.checkpoints + 1):
        home = folder / f"checkpoint-{number}"
        home.mkdir(parents=True)
        (home / "config.json").write_text(json.dumps(case.config()))
        # A draw of its own for every tensor takes minutes: what is added to them may repeat.
        noise = 0.001 * torch.randn(1 << 20, generator=generator)
        state = {
            name: (tensor + noise.repeat(tensor.numel() // len(noise) + 1)[: tensor.numel()].view_as(tensor)).to(dtype)
            for name, tensor in start.items()
        }
        if case.shards == 1:
            save_file(state, home / "model.safetensors", metadata={"format": "pt"})
            continue
        names = list(state)
        weight_map: dict[str, str] = {}
        for shard in range(case.shards):
            file = f"model-{shard + 1:05}-of-{case.shards:05}.safetensors"
            chosen = names[shard * len(names) // case.shards : (shard + 1) * len(names) // case.shards]
            save_file({name: state[name] for name in chosen}, home / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(chosen, file)
        size = sum(tensor.nbytes for tensor in state.values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (home / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "done").touch()
    return folder


# Tools. Each is called in a child with the folder of checkpoints and the output's folder, and returns the work as a
# function that needs no more imports.


def plain(checkpoints: Path, output: Path) -> Callable[[], None]:
    """The floor: all the inputs' bytes read one after the other, and as many as one checkpoint's written and synced."""
    files = sorted(checkpoints.glob("*/*.safetensors"))
    size = sum(file.stat().st_size for file in files) // len({file.parent for file in files})

    def work() -> None:
        buffer = memoryview(bytearray(BLOCK_BYTES))
        for file in files:
            with file.open("rb", buffering=0) as source:
                while source.readinto(buffer):
                    pass
        output.mkdir()
        left = size
        with (output / "model.safetensors").open("wb", buffering=0) as target:
            while left:
                left -= target.write(buffer[:left])
            os.fsync(target.fileno())

    return work


def ladle(checkpoints: Path, output: Path) -> Callable[[], dict[str, float]]:
    from ladle_engine import combine_checkpoints
    from ladle_engine.progress import ProgressEvent, StageStarted

    started: dict[str, float] = {}

    def listen(event: ProgressEvent) -> None:
        if isinstance(event, StageStarted):
            started[event.stage] = time.monotonic()

    def work() -> dict[str, float]:
        combine_checkpoints(checkpoints, output=output, progress=listen)
        return {"verify_s": time.monotonic() - started["verify"]}

    return work


def ten_lines(checkpoints: Path, output: Path) -> Callable[[], None]:
    """What one writes by hand: tensor by tensor, the result in memory; no digest, no sync, no reading back."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    homes = sorted(checkpoints.glob("checkpoint-*"))

    def work() -> None:
        averaged: dict[str, torch.Tensor] = {}
        for file in sorted(path.name for path in homes[0].glob("*.safetensors")):
            opened = [safe_open(home / file, framework="pt") for home in homes]
            for name in opened[0].keys():  # noqa: SIM118  # safe_open is no mapping
                total = sum((one.get_tensor(name).double() for one in opened), torch.zeros((), dtype=torch.float64))
                averaged[name] = (total / len(opened)).to(opened[0].get_tensor(name).dtype)
        output.mkdir()
        save_file(averaged, output / "model.safetensors", metadata={"format": "pt"})

    return work


def state_dicts(checkpoints: Path, output: Path) -> Callable[[], None]:
    """About timm's `avg_checkpoints.py`: whole state dicts, one after the other, into a whole float64 sum."""
    import torch
    from safetensors.torch import load_file, save_file

    homes = sorted(checkpoints.glob("checkpoint-*"))

    def work() -> None:
        total: dict[str, torch.Tensor] = {}
        for home in homes:
            state: dict[str, torch.Tensor] = {}
            for file in sorted(home.glob("*.safetensors")):
                state |= load_file(file)
            for name, tensor in state.items():
                total[name] = total[name] + tensor.double() if name in total else tensor.double()
        output.mkdir()
        averaged = {name: (tensor / len(homes)).to(state[name].dtype) for name, tensor in total.items()}
        save_file(averaged, output / "model.safetensors", metadata={"format": "pt"})

    return work


def mergekit(checkpoints: Path, output: Path) -> Callable[[], None]:
    from mergekit.config import MergeConfiguration  # type: ignore[import-not-found]
    from mergekit.merge import run_merge  # type: ignore[import-not-found]
    from mergekit.options import MergeOptions  # type: ignore[import-not-found]

    homes = sorted(checkpoints.glob("checkpoint-*"))
    dtype = json.loads((homes[0] / "config.json").read_text())["torch_dtype"]
    models = [{"model": str(home), "parameters": {"weight": 1.0}} for home in homes]
    config = MergeConfiguration.model_validate({"merge_method": "linear", "models": models, "dtype": dtype})
    options = MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False)
    return lambda: run_merge(config, str(output), options)


TOOLS: dict[str, Callable[[Path, Path], Callable[[], Any]]] = {
    FLOOR: plain,
    LADLE: ladle,
    "ten lines, streaming": ten_lines,
    "state dicts in float64": state_dicts,
    "mergekit, linear": mergekit,
}


def child(tool: str, checkpoints: Path, output: Path) -> None:
    work = TOOLS[tool](checkpoints, output)
    print("ready", anonymous_bytes("self"), flush=True)
    started = time.monotonic()
    found = work() or {}
    print("done", json.dumps({"seconds": time.monotonic() - started, **found}), flush=True)


def anonymous_bytes(process: int | str) -> int:
    """Memory that no file backs; mapped checkpoints are the page cache's and not counted."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def run(tool: str, checkpoints: Path, *, cold: bool) -> dict[str, float]:
    """One fresh process. Raises `RuntimeError` with the last line it wrote when it fails."""
    output = CACHE / "out"
    shutil.rmtree(output, ignore_errors=True)
    for file in checkpoints.glob("*/*.safetensors"):
        with file.open("rb") as opened:
            if cold:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while opened.read(BLOCK_BYTES):
                    pass
    python = MERGEKIT / "bin" / "python" if tool.startswith("mergekit") else Path(sys.executable)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if tool.startswith("mergekit"):
        environment.pop("PYTHONPATH", None)
    log = CACHE / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [python, __file__, "--child", tool, str(checkpoints), str(output)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        base = next((int(line.split()[1]) for line in process.stdout if line.startswith("ready ")), 0)
        peak = base
        while process.poll() is None:
            with contextlib.suppress(OSError):
                peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(SAMPLE_EVERY_S)
        told = [line.removeprefix("done ") for line in process.stdout if line.startswith("done ")]
    shutil.rmtree(output, ignore_errors=True)
    if not told:
        raise RuntimeError((log.read_text().strip().splitlines() or ["it said nothing"])[-1][:200])
    found: dict[str, float] = json.loads(told[-1])
    return found | {"peak_bytes": peak - base}


def install_mergekit() -> str | None:
    """mergekit into an environment of its own, with this repository's torch. Returns why that failed, if it did."""
    python = MERGEKIT / "bin" / "python"
    if python.exists() and not subprocess.run([python, "-c", "import mergekit"], capture_output=True).returncode:
        return None
    torch = next(
        line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line.startswith("torch=")
    )
    try:
        subprocess.run([sys.executable, "-m", "venv", MERGEKIT], check=True, capture_output=True, text=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "mergekit", torch]
        subprocess.run(install, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        return f"does not install: {(error.stderr.strip().splitlines() or ['no reason given'])[-1][:200]}"
    return None


def compare(case: Case, checkpoints: Path, rounds: int, skipped: dict[str, str]) -> dict[str, Any]:
    """Medians over the rounds, in which the tools take turns."""
    runs: dict[str, list[dict[str, float]]] = {}
    failed = dict(skipped)
    load = [os.getloadavg()[0]]
    for _ in range(rounds):
        for warmth in ("cold", "warm"):
            for tool in TOOLS:
                if tool in failed:
                    continue
                try:
                    runs.setdefault(f"{tool}/{warmth}", []).append(run(tool, checkpoints, cold=warmth == "cold"))
                except RuntimeError as error:
                    failed[tool] = str(error)
    load.append(os.getloadavg()[0])
    sizes = {name: _product(shape) * (4 if case.dtype == "float32" else 2) for name, shape in case.shapes()}
    rows = []
    for tool in TOOLS:
        if tool in failed:
            rows.append({"tool": tool, "failed": failed[tool]})
            continue
        row: dict[str, Any] = {"tool": tool}
        for warmth in ("cold", "warm"):
            samples = runs[f"{tool}/{warmth}"]
            row[f"{warmth}_s"] = statistics.median(sample["seconds"] for sample in samples)
            row[f"{warmth}_all_s"] = [round(sample["seconds"], 3) for sample in samples]
            if "verify_s" in samples[0]:
                row[f"{warmth}_verify_s"] = statistics.median(sample["verify_s"] for sample in samples)
        row["peak_bytes"] = max(sample["peak_bytes"] for w in ("cold", "warm") for sample in runs[f"{tool}/{w}"])
        rows.append(row)
    return {
        "case": case.name,
        "checkpoints": case.checkpoints,
        "shards": case.shards,
        "dtype": case.dtype,
        "load": load,
        "checkpoint_bytes": sum(sizes.values()),
        "largest_tensor_bytes": max(sizes.values()),
        "rows": rows,
    }


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


HEADINGS = ("tool", "cold, s", "x floor", "warm, s", "x floor", "of it read back", "peak memory", "x largest tensor")


def cells(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """One row of text a tool, under `HEADINGS`."""
    floor = result["rows"][0]
    for row in result["rows"]:
        if "failed" in row:
            yield (row["tool"], row["failed"], *[""] * 6)
            continue
        verify = row.get("cold_verify_s")
        yield (
            row["tool"],
            f"{row['cold_s']:.2f}",
            f"{row['cold_s'] / floor['cold_s']:.2f}",
            f"{row['warm_s']:.2f}",
            f"{row['warm_s'] / floor['warm_s']:.2f}",
            "" if verify is None else f"{verify:.2f}, {row['warm_verify_s']:.2f}",
            f"{row['peak_bytes'] / 1e6:.0f} MB",
            f"{row['peak_bytes'] / result['largest_tensor_bytes']:.2f}",
        )


def verdicts(result: Mapping[str, Any]) -> list[str]:
    """What Ladle's figures say to the goals."""
    floor, ladle_row = (next(row for row in result["rows"] if row["tool"] == tool) for tool in (FLOOR, LADLE))
    if "failed" in ladle_row:
        return [f"{LADLE} failed: {ladle_row['failed']}"]
    lines = []
    for warmth in ("cold", "warm"):
        ratio = ladle_row[f"{warmth}_s"] / floor[f"{warmth}_s"]
        without = (ladle_row[f"{warmth}_s"] - ladle_row[f"{warmth}_verify_s"]) / floor[f"{warmth}_s"]
        lines.append(
            f"{warmth}: {ratio:.2f} times the floor ({without:.2f} without reading back); "
            f"the goal of {GOAL_TIMES} {held(ratio <= GOAL_TIMES)}."
        )
    tensors = ladle_row["peak_bytes"] / result["largest_tensor_bytes"]
    lines.append(
        f"peak memory: {tensors:.2f} times the largest tensor; "
        f"the goal of {GOAL_TENSORS} {held(tensors <= GOAL_TENSORS)}."
    )
    return lines


def title(result: Mapping[str, Any]) -> str:
    files = "one file each" if result["shards"] == 1 else f"{result['shards']} shards each"
    return (
        f"{result['checkpoints']} x {result['checkpoint_bytes'] / 1e6:.0f} MB, {result['dtype']}, {files}; "
        f"largest tensor {result['largest_tensor_bytes'] / 1e6:.0f} MB; "
        f"load {result['load'][0]:.1f} and {result['load'][1]:.1f}"
    )


def markdown(results: list[dict[str, Any]], rounds: int, quick: bool) -> str:
    lines = [
        "# Uniform averages",
        "",
        f"Made by `python benchmarks/averaging.py{' --quick' if quick else ''}` on {os.cpu_count()} cores. Medians of "
        f"{rounds} rounds in which the tools take turns, each in a fresh process with one thread of torch, from after "
        "its imports. *Cold*: the checkpoints were dropped from the page cache; *warm*: they were read just before. "
        "The floor reads all inputs in blocks of 8 MB, writes the output's size and syncs. Peak memory is anonymous "
        "memory above the imports: mapped files do not count. The machine's load (processes that want a core) before "
        "and after each case stands in its heading: well above 2 others were at work on the same cores, and ratios say "
        "more than seconds.",
        "",
        "Ladle syncs and hashes what it writes, and reads it back from the disk; the seconds of reading back are part "
        "of its time and in a column of their own, cold and warm. The tools below it do none of this. *State dicts in "
        "float64* is about what timm's `avg_checkpoints.py` does. That script was not run: it is "
        "neither in timm's wheel (1.0.31) nor in its source distributions (0.1.1, 0.4.12, 0.6.13, 0.9.16, 1.0.31). It "
        "adds in place and hashes, which ours does not, and always writes float32.",
    ]
    for result in results:
        lines += ["", f"## {title(result)}", "", *(f"- {line}" for line in verdicts(result)), ""]
        lines += table_lines(HEADINGS, cells(result))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = parser_of(__doc__, quick="files too small to judge by", cpu_only=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, metavar=("TOOL", "CHECKPOINTS", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        tool, checkpoints, output = arguments.child
        child(tool, Path(checkpoints), Path(output))
        return
    from rich.console import Console
    from rich.table import Table

    from ladle_engine.versions import versions

    console = Console()
    CACHE.mkdir(parents=True, exist_ok=True)
    failure = install_mergekit()
    skipped = {"mergekit, linear": failure} if failure else {}
    results = []
    for case in cases(arguments.quick):
        results.append(compare(case, make(case), arguments.rounds, skipped))
        table = Table(*HEADINGS, title=title(results[-1]))
        for row in cells(results[-1]):
            table.add_row(*row)
        console.print(table, *verdicts(results[-1]), sep="\n")
    figures = {"versions": versions(), "rounds": arguments.rounds, "cases": results}
    console.print(
        save("averaging", figures, markdown(results, arguments.rounds, arguments.quick), quick=arguments.quick)
    )


if __name__ == "__main__":
    main()

"""What a step of coefficients costs over the same step of plain SGD: time and memory, K = 10, 100, 300, every tier.

    python benchmarks/step_overhead.py [--device cuda] [--models resnet-50 vit-b-16] [--quick]

On a GPU ResNet-50 (batch 256) and ViT-B/16 (batch 128) at 224 pixels, on a CPU models of three million parameters. Both
steps run one forward and one backward pass of the same model over the same batch, already on the device, in float32
and with BatchNorm on batch statistics; the plain one then takes `torch.optim.SGD(momentum=0.9)` over all parameters,
ours the engine's own step. They take turns, and the overhead is the median of the ratios of neighbours.

Checkpoints are drawn in memory: 300 of ResNet-50 are 30 GB. `streamed` needs files, so it runs where disk and page
cache have room for them; they are deleted at once. Calls for some of the rows (`--counts 300 --tiers int8 int4`) add to
those that earlier calls measured.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import os
import shutil
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import clock, device_name, median, parser_of, results_path, save, slug, wait
from rich.console import Console
from safetensors.torch import save_file
from step_tables import PRECISIONS, cells_of, earlier_runs, markdown, table_of, verdicts, with_run
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, ResNetConfig, ViTConfig
from transformers import ResNetForImageClassification as ResNet
from transformers import ViTForImageClassification as ViT

from ladle_engine.checkpoints.readers import READERS
from ladle_engine.checkpoints.types import Checkpoint, CheckpointSet, TensorInfo
from ladle_engine.directions.checkpoint_directions import OFFLOADED, STREAMED
from ladle_engine.directions.formats import row_bytes
from ladle_engine.distributed.collectives import SingleProcess
from ladle_engine.methods.trained import TrainedOptions
from ladle_engine.model.binding import bind
from ladle_engine.model.groups import Groups, group
from ladle_engine.model.statistics import NoStatistics, RecomputedStatistics, Statistics
from ladle_engine.placements.base import REPLICATED, Placement
from ladle_engine.placements.memory_plan import MemoryPlan
from ladle_engine.placements.memory_probe import PeakMemory, available_bytes
from ladle_engine.placements.model_weights import ModelWeights
from ladle_engine.progress import ignore
from ladle_engine.resume_state import ResumeState
from ladle_engine.subspace.bases import Basis, Linear
from ladle_engine.tasks.examples import Examples
from ladle_engine.tasks.image_classification import ImageClassification
from ladle_engine.training.descent import first_order
from ladle_engine.training.objective import Objective
from ladle_engine.training.trainer import Trainer
from ladle_engine.versions import versions

COUNTS = (10, 100, 300)
HOST = torch.device("cpu")
GROUPINGS = ("model", "layers")
MEMORY_SHARE = 0.6
"""Of the memory that is free; rows that take more, or files that the page cache would have to hold, are left out."""
DISK_SHARE = 0.8
"""Of the disk that is free, for files."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and its batch."""

    build: type[nn.Module]
    config: PreTrainedConfig
    image_size: int
    batch_size: int


def _resnet(**sizes: Any) -> dict[str, Any]:
    return {"build": ResNet, "config": ResNetConfig(num_labels=1000, **sizes)}  # type: ignore[call-arg]  # a field of its base class


def _vit(**sizes: Any) -> dict[str, Any]:
    return {"build": ViT, "config": ViTConfig(num_labels=1000, **sizes)}  # type: ignore[call-arg]  # as above


ON_GPU = {
    "resnet-50": Case(**_resnet(), image_size=224, batch_size=256),
    "vit-b-16": Case(**_vit(), image_size=224, batch_size=128),
}
ON_CPU = {
    "resnet-small": Case(
        **_resnet(embedding_size=32, hidden_sizes=[96, 192, 384, 768], depths=[2, 2, 3, 2]),
        image_size=64,
        batch_size=64,
    ),
    "vit-small": Case(
        **_vit(
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=3,
            image_size=64,
            patch_size=8,
        ),
        image_size=64,
        batch_size=32,
    ),
}


def main() -> None:
    parser = parser_of(__doc__, quick="K = 10 and a third of the repeats")
    parser.add_argument("--models", choices=[*ON_GPU, *ON_CPU], nargs="+", help="all that suit the device when absent")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="of checkpoints")
    parser.add_argument("--tiers", choices=PRECISIONS, nargs="+", help="all that suit the device when absent")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--repeats", type=int, help="15 on a GPU, 6 on a CPU when absent")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    if not on_gpu:
        torch.set_num_threads(arguments.threads)
    cases = ON_GPU if on_gpu else ON_CPU
    tiers = arguments.tiers or [precision for precision in PRECISIONS if on_gpu or precision != OFFLOADED]
    repeats = arguments.repeats or (15 if on_gpu else 6) // (3 if arguments.quick else 1)
    # So that a `kill` removes the streamed files too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    for name in arguments.models or cases:
        torch.manual_seed(0)
        bench = Bench({**ON_CPU, **ON_GPU}[name], device, repeats)
        result = result_of(name, bench, arguments.quick)
        file = f"step-overhead-{slug(name)}-{slug(device_name(device))}"
        result["runs"] = earlier_runs(results_path(file, quick=arguments.quick), result, console)
        for count in [10] if arguments.quick else arguments.counts:
            for precision in tiers:
                run = run_of(result, bench, count, precision)
                result["runs"] = with_run(result["runs"], run)
                console.print(" ".join(cells_of(run)))
                # After every run: what is measured is not lost when a later one takes too long.
                save(file, result, markdown(result), quick=arguments.quick)
        console.print(table_of(result), *verdicts(result), sep="\n")


def result_of(name: str, bench: Bench, quick: bool) -> dict[str, Any]:
    """What all rows of a model have in common, the plain step among it; no `runs` yet."""
    return {
        "model": name,
        "device": device_name(bench.device),
        "threads": None if bench.device.type == "cuda" else torch.get_num_threads(),
        "batch_size": bench.case.batch_size,
        "image_size": bench.case.image_size,
        "precision": "float32",
        "quick": quick,
        "versions": versions(),
        "plain": {
            "parameters": bench.parameters,
            "flop": bench.flop(),
            **bench.plain_memory(),
            **bench.plain_calls(),
        },
    }


def run_of(result: Mapping[str, Any], bench: Bench, count: int, precision: str) -> dict[str, Any]:
    """One row, measured now."""
    plain = result["plain"]
    return {
        "count": count,
        "tier": precision,
        "load": round(os.getloadavg()[0], 1),
        "repeats": bench.repeats,
        "plain_bytes": plain["held_bytes"] + plain["step_bytes"],
        **bench.run(count, precision),
    }


class DrawnCheckpoint:
    """A checkpoint that is a window of one long random vector, at an offset of its own: nothing is kept or computed.

    Norms' weights and biases lie around 1, so that a mean of hundreds still passes numbers on.
    """

    format = "drawn"
    pool = torch.empty(0)
    infos: Mapping[str, TensorInfo] = {}
    STRIDE = 997

    @classmethod
    def draw(cls, infos: Mapping[str, TensorInfo], count: int) -> None:
        longest = max(info.numel for info in infos.values())
        cls.infos = infos
        cls.pool = 0.05 * torch.randn(longest + count * cls.STRIDE, generator=torch.Generator().manual_seed(0))

    def __init__(self, checkpoint: Checkpoint) -> None:
        assert checkpoint.step is not None
        self._offset = checkpoint.step * self.STRIDE

    def __enter__(self) -> DrawnCheckpoint:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.infos

    def read(self, name: str) -> Tensor:
        info = self.infos[name]
        values = torch.empty(info.numel)
        self.read_into(name, 0, values)
        return values.view(info.shape)

    def read_into(self, name: str, start: int, out: Tensor) -> None:
        out.copy_(self.pool[self._offset + start :][: len(out)])
        if len(self.infos[name].shape) == 1:
            out += 1

    def position(self, name: str) -> tuple[int, int]:
        return 0, list(self.infos).index(name)


READERS[DrawnCheckpoint.format] = DrawnCheckpoint  # type: ignore[assignment]


class OneBatch:
    """A data set that answers with the same batch, which lies on the device already."""

    def __init__(self, case: Case, device: torch.device) -> None:
        shape = (case.batch_size, 3, case.image_size, case.image_size)
        self._batch = {
            "pixel_values": torch.randn(shape, device=device),
            "labels": torch.randint(1000, (case.batch_size,), device=device),
        }

    def __len__(self) -> int:
        return len(self._batch["labels"])

    def batch(self, indices: Tensor) -> Mapping[str, Tensor]:
        return self._batch


class Bench:
    """One model on one device, and the plain step over it."""

    def __init__(self, case: Case, device: torch.device, repeats: int) -> None:
        self.case = case
        self.device = device
        self.repeats = repeats
        self.task = ImageClassification.from_options({"batch_size": case.batch_size})
        self.examples = Examples(
            task=self.task,
            data=OneBatch(case, device),
            indices=torch.arange(case.batch_size),
            device=device,
        )
        self.model = case.build(case.config).to(device)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.infos = {
            name: TensorInfo(shape=tuple(tensor.shape), dtype=tensor.dtype)
            for name, tensor in self.model.state_dict().items()
        }
        self.fresh = copy.deepcopy(self.model)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)
        self.training_mode(self.model)
        self.plain_step()

    def training_mode(self, model: nn.Module) -> None:
        """As the engine trains: everything as in evaluation but BatchNorm, which takes the batch's statistics."""
        model.eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()

    def forward_and_backward(self) -> None:
        self.task.loss(self.model, self.examples.batch(self.examples.indices)).backward()

    def plain_step(self) -> None:
        self.optimiser.zero_grad()
        self.forward_and_backward()
        self.optimiser.step()

    def flop(self) -> int:
        with FlopCounterMode(display=False) as counter:
            self.forward_and_backward()
        self.optimiser.zero_grad()
        return int(counter.get_total_flops())

    def plain_calls(self) -> dict[str, Any]:
        return {"calls": calls(self.plain_step, self.device)}

    def plain_memory(self) -> dict[str, int]:
        """Bytes: parameters and momentum, and what a step takes on top of them at its peak."""
        return {"held_bytes": 8 * self.parameters, "step_bytes": self.peak(self.plain_step)}

    def peak(self, step: Callable[[], object]) -> int:
        self.optimiser.zero_grad()
        release_free_memory(self.device)
        with PeakMemory(self.device) as peak:
            step()
        return peak.bytes

    def run(self, count: int, precision: str) -> dict[str, Any]:
        """Milliseconds and bytes of our step, or why it was not run."""
        stored = count * (
            4 * self.parameters if precision == STREAMED else row_bytes(row_precision_of(precision), self.parameters)
        )
        if stored > (room := self.room_for(precision)):
            what = "files" if precision == STREAMED else "rows"
            return {"skipped": f"{stored / 1e9:.1f} GB of {what}, room for {room / 1e9:.1f}"}
        with self.ours(count, precision) as ours:
            measured = ours.measure(self)
        release_free_memory(self.device)
        return {"stored_bytes": stored, **measured}

    def room_for(self, precision: str) -> float:
        """Bytes."""
        memory = MEMORY_SHARE * available_bytes(HOST if precision in (OFFLOADED, STREAMED) else self.device)
        disk = DISK_SHARE * shutil.disk_usage(tempfile.gettempdir()).free
        return min(memory, disk) if precision == STREAMED else memory

    @contextmanager
    def ours(self, count: int, precision: str) -> Iterator[Ours]:
        DrawnCheckpoint.draw(self.infos, count)
        drawn = CheckpointSet(
            folder=Path("drawn"),
            checkpoints=tuple(
                Checkpoint(name=f"step-{step}", step=step, files=(), format=DrawnCheckpoint.format)
                for step in range(count)
            ),
            tensors=self.infos,
            config=None,
            side_files=(),
            home=Path("drawn"),
            places=(Path("drawn"),),
            root=Path("drawn"),
        )
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = written(drawn, Path(folder)) if precision == STREAMED else drawn
            model = copy.deepcopy(self.fresh)
            binding = bind(model, checkpoints)
            weights = ModelWeights(
                checkpoints=checkpoints,
                binding=binding,
                plans=[MemoryPlan(placement=REPLICATED, precision=precision, parts={}, available_bytes=0, reason="")],
                device=self.device,
                collectives=SingleProcess(),
                trial=lambda: None,
                on_event=ignore,
            )
            chosen: Statistics = NoStatistics(binding)
            if binding.statistics:
                chosen = RecomputedStatistics(checkpoints, binding, self.examples, SingleProcess())
            try:
                yield Ours(
                    {
                        name: Trainer(
                            method="twa",
                            model=model,
                            placement=weights.placement(groups),
                            statistics=chosen,
                            load_statistics=partial(_place, chosen, groups),
                            groups=groups,
                            examples=self.examples,
                            collectives=SingleProcess(),
                            state=ResumeState(None, ""),
                            on_event=ignore,
                        )
                        for name in GROUPINGS
                        for groups in (group(binding, name),)
                    },
                    count,
                )
            finally:
                weights.close()


class Ours:
    """The engine's step, with a coefficient per checkpoint and with one per checkpoint and layer."""

    def __init__(self, trainers: Mapping[str, Trainer], count: int) -> None:
        self.count = count
        self.trainers = trainers
        self.steps = {name: self._step_of(trainer) for name, trainer in trainers.items()}

    def measure(self, bench: Bench) -> dict[str, Any]:
        placement, groups = self.trainers["model"].placement, self.trainers["model"].groups
        vectors = [torch.randn(bucket.length, device=bench.device) for bucket in placement.buckets]
        weights_KG = torch.full((self.count, 1), 1 / self.count, dtype=torch.float64)

        def project() -> None:
            for index, gradient_P in enumerate(vectors):
                placement.directions.project(index, gradient_P)

        def forward_and_backward() -> None:
            bench.optimiser.zero_grad()
            bench.forward_and_backward()

        ms = in_turn(
            {
                "plain": bench.plain_step,
                "twa": self.steps["model"],
                "pass": forward_and_backward,
                "place": lambda: placement.load_weights(weights_KG, groups),
                "project": project,
                "plain again": bench.plain_step,
                "twa layers": self.steps["layers"],
            },
            bench.device,
            bench.repeats,
        )
        vectors.clear()
        pairs = list(zip(ms["plain"], ms["twa"], strict=True))
        layers = list(zip(ms["plain again"], ms["twa layers"], strict=True))
        middle = {name: statistics.median(values) for name, values in ms.items()}
        return {
            "plain_ms": round(middle["plain"], 2),
            "pass_ms": round(middle["pass"], 2),
            "twa_ms": round(middle["twa"], 2),
            "twa_layers_ms": round(middle["twa layers"], 2),
            "place_ms": round(middle["place"], 2),
            "project_ms": round(middle["project"], 2),
            "rest_ms": round(middle["twa"] - middle["pass"] - middle["place"] - middle["project"], 2),
            "overhead": median((twa / plain - 1 for plain, twa in pairs), 4),
            "overhead_layers": median((twa / plain - 1 for plain, twa in layers), 4),
            "plain_again": median((b / a - 1 for a, b in zip(ms["plain"], ms["plain again"], strict=True)), 4),
            "layers": len(self.trainers["layers"].groups),
            "held_bytes": 4 * bench.parameters * (1 if self.tier_has_no_centre(placement) else 2),
            "step_bytes": bench.peak(self.steps["model"]),
            "layers_step_bytes": bench.peak(self.steps["layers"]),
            "calls": calls(self.steps["model"], bench.device),
        }

    def tier_has_no_centre(self, placement: Placement) -> bool:
        return not hasattr(placement.directions, "_base")

    def _step_of(self, trainer: Trainer) -> Callable[[], None]:
        """What `descend` does in each of its steps."""
        G = len(trainer.groups)
        basis = Basis(
            matrix_GKM=torch.diag_embed(torch.ones(G, self.count, dtype=torch.float64)),
            log_variance_MG=torch.zeros(self.count, G, dtype=torch.float64),
        )
        subspace = Linear(alpha_0_KG=torch.full((self.count, G), 1 / self.count, dtype=torch.float64), basis=basis)
        settings = TrainedOptions(steps=1, learning_rate=1e-6).settings(seed=0, per_pass=1)
        objective = Objective.of(trainer, subspace, settings)
        theta_MG = objective.theta_MG
        optimiser = first_order(theta_MG, settings)

        def step() -> None:
            measured = objective.measure(trainer.examples.indices)
            objective.prior.see(theta_MG.detach(), measured.data_MG, len(trainer.examples))
            theta_MG.grad = measured.gradient_MG
            optimiser.step()

        return step


def _place(chosen: Statistics, groups: Groups, weights_KG: Tensor) -> None:
    chosen.load_weights(weights_KG, groups)


def written(drawn: CheckpointSet, folder: Path) -> CheckpointSet:
    """The same checkpoints as files."""
    files = []
    for checkpoint in drawn.checkpoints:
        reader = DrawnCheckpoint(checkpoint)
        path = folder / f"{checkpoint.name}.safetensors"
        save_file({name: reader.read(name).clone() for name in drawn.tensors}, path)
        files.append(Checkpoint(name=path.name, step=checkpoint.step, files=(path,), format="safetensors"))
    return CheckpointSet(
        folder=folder,
        checkpoints=tuple(files),
        tensors=drawn.tensors,
        config=None,
        side_files=(),
        home=folder,
        places=(folder,),
        root=folder,
    )


def row_precision_of(precision: str) -> str:
    return "float32" if precision == OFFLOADED else precision


def in_turn(jobs: Mapping[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every job, which take turns; the first round warms up."""
    ms: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(-1, repeats):
        for name, job in jobs.items():
            wait(device)
            started = clock(device)
            job()
            wait(device)
            if repeat >= 0:
                ms[name].append(1000 * (clock(device) - started))
    return ms


VIEWS = frozenset(
    (
        *("view", "_unsafe_view", "_reshape_alias", "as_strided", "slice", "select", "detach"),
        *("t", "transpose", "expand", "reshape", "alias", "permute", "unsqueeze"),
        *("squeeze", "split", "unbind", "unfold", "empty", "empty_like", "empty_strided"),
        *("resize_", "set_", "result_type", "lift_fresh", "resolve_conj", "resolve_neg"),
    )
)
"""Operators that would start no kernel."""

SYNCHRONISING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def calls(step: Callable[[], object], device: torch.device) -> dict[str, int]:
    """How much one step asks of the device: kernels, copies and waits; on a CPU the operators that would be kernels."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        step()
    events = profiled.events() or []
    if on_gpu:
        counted = Counter(event.name for event in events)
        return {
            "kernels": sum(n for name, n in counted.items() if "LaunchKernel" in name),
            "copies": sum(n for name, n in counted.items() if name.startswith("Memcpy")),
            "copies_to_host": sum(n for name, n in counted.items() if name.startswith("Memcpy DtoH")),
            "waits": sum(counted[name] for name in SYNCHRONISING),
        }
    leaves = [
        event.name
        for event in events
        if event.name.startswith("aten::")
        and event.name.removeprefix("aten::") not in VIEWS
        and not any(child.name.startswith("aten::") for child in event.cpu_children if child.name[6:] not in VIEWS)
    ]
    return {"operators": len(leaves)}


def release_free_memory(device: torch.device) -> None:
    """To the system, so that a peak counts it again when it is used."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


if __name__ == "__main__":
    main()

"""The kinds of folders: who writes each, and what Ladle must find in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHOOSING = ("use_ema", "steps", "component", "exclude")


@dataclass(frozen=True, kw_only=True)
class Kind:
    name: str
    script: str
    """In `scripts/`."""
    tools: tuple[str, ...] = ()
    """The tool's folders of packages, `tools/NAME.txt`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of the script."""
    folder: str = "."
    """What is given to Ladle, in what the script wrote."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of `combine_checkpoints`."""
    found: tuple[str, ...]
    """The checkpoints, in order."""
    order: str

    @property
    def choosing(self) -> dict[str, Any]:
        """The arguments that say which weights are meant: those that `inspect` has too."""
        return {name: value for name, value in self.arguments.items() if name in CHOOSING}


def numbered(name: str, numbers: tuple[int, ...] = (2, 4, 6, 8)) -> tuple[str, ...]:
    return tuple(name.format(number) for number in numbers)


NUMBER = "number in the name"
EPOCHS = (0, 1, 2, 3)
_TIMM = {"script": "timm_train", "tools": ("timm",), "order": NUMBER}
_TRAINER = {"script": "trainer", "tools": ("trainers",), "order": NUMBER}
_TORCHVISION = {"script": "torchvision_reference", "order": NUMBER, "found": numbered("model_{}.pth", EPOCHS)}
_DIFFUSERS = {"script": "diffusers_train", "tools": ("trainers",), "order": NUMBER}

KINDS = (
    Kind(name="timm", found=numbered("checkpoint-{}.pth.tar", EPOCHS), **_TIMM),
    Kind(
        name="timm-ema",
        found=numbered("checkpoint-{}.pth.tar", EPOCHS),
        environment={"EMA": "1"},
        arguments={"use_ema": True},
        **_TIMM,
    ),
    Kind(
        name="open-clip",
        script="open_clip_train",
        tools=("timm",),
        found=numbered("checkpoints/epoch_{}.pt", (1, 2, 3, 4)),
        order="epoch",
    ),
    Kind(name="trainer", found=numbered("checkpoint-{}"), **_TRAINER),
    Kind(name="trainer-shards", found=numbered("checkpoint-{}"), environment={"SHARD_SIZE": "20KB"}, **_TRAINER),
    Kind(
        name="trainer-sweep",
        script="trainer",
        tools=("trainers",),
        environment={"RUNS": "2"},
        found=numbered("run-0/checkpoint-{}") + numbered("run-1/checkpoint-{}"),
        order="run, then number in the name",
    ),
    Kind(
        name="lightning",
        script="lightning_train",
        tools=("trainers",),
        folder="lightning_logs/version_0/checkpoints",
        found=("epoch=0-step=2.ckpt", "epoch=1-step=4.ckpt", "epoch=2-step=6.ckpt", "epoch=3-step=8.ckpt"),
        order="epoch and step",
    ),
    Kind(
        name="lightning-ema",
        script="lightning_train",
        tools=("trainers",),
        environment={"EMA": "1"},
        arguments={"use_ema": True},
        found=tuple(
            f"lightning_logs/version_0/checkpoints/epoch={epoch}-step={2 + 2 * epoch}.ckpt" for epoch in EPOCHS
        ),
        order="epoch and step",
    ),
    Kind(name="torchvision", **_TORCHVISION),
    Kind(name="torchvision-ema", environment={"EMA": "1"}, arguments={"use_ema": True}, **_TORCHVISION),
    Kind(name="dcp", script="dcp_train", found=numbered("step-{}"), order="step"),
    Kind(name="dcp-flat", script="dcp_train", environment={"KIND": "flat"}, found=numbered("step-{}"), order="step"),
    Kind(
        name="torchtitan",
        script="torchtitan_train",
        tools=("torchtitan",),
        # To start a run from: torchtitan reads DCP.
        arguments={"output_format": "dcp"},
        found=numbered("checkpoint/step-{}"),
        order="step",
    ),
    Kind(name="olmo-core", script="olmo_train", tools=("olmo",), found=numbered("step{}"), order="step"),
    Kind(
        name="accelerate",
        script="accelerate_train",
        tools=("trainers",),
        found=numbered("checkpoints/checkpoint_{}", EPOCHS),
        order=NUMBER,
    ),
    Kind(
        name="accelerate-fsdp",
        script="accelerate_train",
        tools=("trainers",),
        environment={"KIND": "fsdp"},
        folder="checkpoints",
        found=numbered("checkpoint_{}", EPOCHS),
        order=NUMBER,
    ),
    Kind(name="diffusers", found=numbered("checkpoint-{}/unet"), arguments={"component": "unet"}, **_DIFFUSERS),
    Kind(
        name="diffusers-ema",
        found=numbered("checkpoint-{}/unet_ema"),
        environment={"COMPONENT": "unet_ema"},
        arguments={"component": "unet_ema"},
        **_DIFFUSERS,
    ),
    Kind(
        name="fairseq",
        script="fairseq_train",
        tools=("fairseq",),
        found=numbered("checkpoint{}.pt", (1, 2, 3, 4)),
        order=NUMBER,
    ),
    Kind(
        name="opennmt",
        script="opennmt_train",
        tools=("speech",),
        found=numbered("model_step_{}.pt", (10, 20, 30, 40)),
        order="step",
    ),
    Kind(
        name="espnet",
        # Averages of the others that ESPnet made itself.
        arguments={"exclude": "valid.*"},
        script="espnet_train",
        tools=("speech",),
        found=numbered("{}epoch.pth", (1, 2, 3, 4)),
        order="epoch",
    ),
    Kind(
        name="wenet",
        script="wenet_train",
        # The model before the first epoch.
        arguments={"exclude": "init.pt"},
        found=numbered("epoch_{}.pt", EPOCHS),
        order="epoch",
    ),
    Kind(
        name="icefall",
        script="icefall_train",
        found=numbered("checkpoint-{}.pt", (10, 20, 30, 40)),
        order=NUMBER,
    ),
    Kind(
        name="icefall-averaged",
        script="icefall_train",
        environment={"EMA": "1"},
        arguments={"use_ema": True, "steps": [20, 40], "weights": [-1.0, 2.0]},
        found=numbered("checkpoint-{}.pt", (20, 40)),
        order=NUMBER,
    ),
    Kind(
        name="nemo",
        script="nemo_train",
        tools=("trainers", "speech"),
        found=numbered("net--epoch={}.nemo", EPOCHS),
        order="epoch",
    ),
    Kind(
        name="ultralytics",
        script="ultralytics_train",
        tools=("timm", "ultralytics"),
        folder="train/weights",
        # The files hold float16, which ultralytics makes float32 of when it loads them.
        arguments={"dtype": "float32"},
        found=numbered("epoch{}.pt", EPOCHS),
        order="epoch",
    ),
    Kind(
        name="megatron-core",
        script="megatron_train",
        tools=("megatron",),
        arguments={"output_format": "dcp"},
        found=numbered("iter_000000{}"),
        order="step",
    ),
    Kind(
        name="fsdp2-ranks",
        script="dcp_train",
        environment={"KIND": "ranks"},
        found=numbered("step{}_rank0.pt"),
        order="step",
    ),
    Kind(
        name="deepspeed",
        script="deepspeed_train",
        tools=("deepspeed",),
        found=numbered("global_step{}"),
        order="step",
    ),
    Kind(
        name="deepspeed-converted",
        script="deepspeed_train",
        tools=("deepspeed",),
        environment={"STAGE": "3", "CONVERT": "1"},
        folder="whole",
        found=numbered("step-{}"),
        order="step",
    ),
)

"""The options that make a job's spec, once for `submit` and `run`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

_WHAT, _HOW, _OUT = "Which checkpoints and data", "How coefficients are chosen", "Output and resources"

CkptDir = Annotated[Path, typer.Argument(metavar="CKPT_DIR", help="The folder of checkpoints.")]
ValSet = Annotated[Path, typer.Argument(metavar="VAL_SET", help="The validation set: a folder, .npz or .safetensors.")]
Method = Annotated[str, typer.Option(help="`auto`, or one method by name.", rich_help_panel=_HOW)]
MethodOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the method.", rich_help_panel=_HOW)
]
Task = Annotated[str | None, typer.Option(help="Inferred from config.json when absent.", rich_help_panel=_WHAT)]
TaskOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the task.", rich_help_panel=_WHAT)
]
Pattern = Annotated[str | None, typer.Option(help="A glob, such as 'checkpoint-*'.", rich_help_panel=_WHAT)]
Last = Annotated[int | None, typer.Option(help="Only the last n checkpoints.", rich_help_panel=_WHAT)]
Steps = Annotated[str | None, typer.Option(help="Only these steps, such as 100,200,300.", rich_help_panel=_WHAT)]
TrainSetPath = Annotated[Path | None, typer.Option("--train-set", help="Training data.", rich_help_panel=_WHAT)]
TrainSetUse = Annotated[
    str, typer.Option(help="`coefficients`, or `batchnorm` to recompute statistics.", rich_help_panel=_WHAT)
]
SelectFraction = Annotated[
    float | None, typer.Option(help="Share of VAL_SET that judges and never trains.", rich_help_panel=_HOW)
]
MetricName = Annotated[
    str | None, typer.Option("--metric", help="What candidates are judged by.", rich_help_panel=_HOW)
]
OutputName = Annotated[str | None, typer.Option("--output", help="The result folder's name.", rich_help_panel=_OUT)]
Dtype = Annotated[str, typer.Option(help="keep, float32, bfloat16 or float16.", rich_help_panel=_OUT)]
ShardBytes = Annotated[int | None, typer.Option("--max-shard-bytes", help="Largest file.", rich_help_panel=_OUT)]
Nodes = Annotated[int, typer.Option(help="Nodes at once; 1 in this version.", rich_help_panel=_OUT)]
RanksPerNode = Annotated[int, typer.Option(help="Processes on each node.", rich_help_panel=_OUT)]
Placement = Annotated[
    str, typer.Option(help="How directions lie over ranks: auto, replicated, by-parameter, ...", rich_help_panel=_OUT)
]
Precision = Annotated[
    str, typer.Option(help="How directions are kept: auto, float32, bfloat16, int8, int4, ...", rich_help_panel=_OUT)
]
Seed = Annotated[int, typer.Option(help="Of the splits and the order of batches.", rich_help_panel=_HOW)]
Priority = Annotated[int, typer.Option(help="-100 to 100; a higher one runs first.", rich_help_panel=_OUT)]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label of the job.", rich_help_panel=_OUT)
]


@dataclass(frozen=True, kw_only=True)
class SpecArguments:
    """What was given, as the command line gives it."""

    method: str
    method_option: Sequence[str] | None
    task: str | None
    task_option: Sequence[str] | None
    pattern: str | None
    last: int | None
    steps: str | None
    train_set: Path | None
    train_set_use: str
    select_fraction: float | None
    metric: str | None
    output: str | None
    dtype: str
    max_shard_bytes: int | None
    nodes: int
    ranks_per_node: int
    placement: str
    precision: str
    seed: int
    priority: int
    label: Sequence[str] | None

    def to_options(self) -> dict[str, Any]:
        """Options of `ladle.submit`. Raises `typer.BadParameter`."""
        return {
            "method": {"name": self.method, "options": pairs(self.method_option, "--method-option")},
            "task": {"name": self.task, "options": pairs(self.task_option, "--task-option")}
            if self.task or self.task_option
            else None,
            "checkpoints": _given(pattern=self.pattern, last=self.last, steps=_numbers(self.steps)),
            "train_set": {"path": self.train_set, "use": self.train_set_use} if self.train_set else None,
            "select_fraction": self.select_fraction,
            "metric": self.metric,
            "output": _given(name=self.output, dtype=self.dtype, max_shard_bytes=self.max_shard_bytes),
            "resources": {
                "nodes": self.nodes,
                "ranks_per_node": self.ranks_per_node,
                "placement": self.placement,
                "precision": self.precision,
            },
            "seed": self.seed,
            "priority": self.priority,
            "labels": {name: str(value) for name, value in pairs(self.label, "--label", plain=True).items()},
        }


def pairs(texts: Sequence[str] | None, option: str, *, plain: bool = False) -> dict[str, Any]:
    """`["steps=32"]` as `{"steps": 32}`: a value that is JSON is taken as such, any other as text."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{option} must be NAME=VALUE, but is {text!r}.")
        found[name] = value if plain else _value(value)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--steps must be whole numbers with commas between, but is {text!r}.") from error


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}

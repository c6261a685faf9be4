"""A job as it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import to_json

from ladle_contracts._model import Contract
from ladle_contracts.field_types import (
    OPTIONS_BYTES,
    OPTIONS_DEPTH,
    CheckpointName,
    CkptDir,
    FolderName,
    Glob,
    Globs,
    JudgeBy,
    Label,
    LabelName,
    Name,
    Options,
    PathText,
    Step,
    ValSet,
    Webhooks,
    inside,
    one_or_several,
)

T = TypeVar("T")
Paths = TypeVar("Paths", str | tuple[str, ...], str | dict[str, str])


class TaskChoice(Contract):
    """What the checkpoints were trained to do."""

    name: Name | None = None
    """The task that the checkpoints were trained for. By default it is read from the folder's `config.json`."""
    options: Options = Field(default_factory=dict)
    """Options of the task."""


class MethodChoice(Contract):
    """How the coefficients are chosen."""

    name: Name = "auto"
    """How the coefficients are chosen: `auto` tries the usual methods and keeps the best, any other name runs that
    method alone."""
    options: Options = Field(default_factory=dict)
    """Options of the method."""


Shape = Literal["linear", "one-minus-sqrt", "power"]
"""Of a profile along which averages can run."""


class CurveChoice(Contract):
    """What is tried at the points of a merge curve."""

    every: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Of a curve: a point at every n-th checkpoint, and at the last. By default there are about 32
    points at most, and a run that grows keeps those that remain."""
    shapes: Annotated[
        tuple[Shape, ...],
        Field(max_length=3),
        BeforeValidator(one_or_several, json_schema_input_type=Shape | tuple[Shape, ...]),
    ] = ()
    """Of a curve: which profiles of weights to try. By default all of them."""
    windows: Literal[1, 2, 4] = 1
    """Of a curve: how many lengths of windows to try between a length and its double."""
    earlier: PathText | None = None
    """Of a curve: the result folder of an earlier one of the same run. What it knows of checkpoints and averages that
    are still the same is not evaluated again."""


class CheckpointFilter(Contract):
    """Which checkpoints of the folder take part. A checkpoint must pass every filter that is given."""

    pattern: Glob | None = None
    """Take only checkpoints whose path inside the folder matches this glob."""
    exclude: Globs = ()
    """Leave out checkpoints whose path inside the folder matches this glob, or one of several."""
    component: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """The model to take where a checkpoint is made of several, such as `unet` of a diffusers pipeline."""
    order: Literal["auto", "step", "epoch", "name", "modified"] = "auto"
    """How the checkpoints are ordered: by the step or the epoch in their names, by name, or by the time of their last
    change. `auto` reads the order from the names."""
    last: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Take only the last n checkpoints."""
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=10_000)] | None = None
    """Take only the checkpoints of these steps. A step without a checkpoint is an error."""
    use_ema: bool = False
    """Take the average that training kept in each file (EMA, SWA) instead of the model. A file without one is an
    error."""
    like: CheckpointName | None = None
    """Take only checkpoints of the architecture of this one: the same names, shapes and kinds of tensors."""
    skip_tensors: Globs = ()
    """Do not average tensors whose name matches this glob, or one of several. They are taken from the last checkpoint.
    In the other checkpoints they may have another shape, or be missing."""
    take_from: Annotated[dict[CheckpointName, Globs], Field(max_length=100)] = Field(default_factory=dict)
    """Do not average tensors, and take them from this checkpoint instead of the last: its path inside the folder, with
    a glob, or several, on names of tensors."""


class Adapters(Contract):
    """How LoRA adapters are averaged, where the checkpoints are such."""

    space: Literal["delta", "factors"] = "delta"
    """What to average of LoRA adapters: `delta` averages what they add to the weights, whatever their ranks, `factors`
    averages each factor on its own."""
    rank: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """The rank of an average of adapters. By default it is the smallest that cuts off no more than `error`."""
    error: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """How much of an average of adapters may be cut off by its rank, as a share of its norm. By default it is 0.01."""
    base_model: PathText | None = None
    """The folder of the base model of adapters. By default it is the one that the adapters name."""


class TrainSet(Contract):
    """The training data, if Ladle may use it."""

    path: PathText
    """Training data. It must not be the validation set."""
    use: Literal["coefficients", "batchnorm", "entropy"] = "coefficients"
    """What the training data is for: to train the coefficients, to recompute BatchNorm statistics, or, without labels,
    to train the coefficients so that predictions have a low entropy."""


class Output(Contract):
    """The folder that the result is written to."""

    name: FolderName | None = None
    """The name of the result's folder, which must not exist yet, nor be that of a job that has not ended. By default it
    is `<run>-<method>-<id>`: the folder that the checkpoints are in, the method, and the beginning of the job's id."""
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep"
    """The type of the written weights. `keep` writes each tensor in the checkpoints' own type."""
    max_shard_bytes: Annotated[int, Field(ge=1 << 20, lt=2**63)] = 5_000_000_000
    """The largest size of one weights file, in bytes. A larger model is split into several files."""
    format: Literal["safetensors", "dcp"] = "safetensors"
    """What the weights are written as: safetensors, or a checkpoint of torch.distributed.checkpoint (DCP)."""


TrackerName = Literal["tensorboard", "mlflow", "wandb", "trackio"]
"""Experiment trackers that Ladle can tell of a job."""


class Tracking(Contract):
    """Where the job's metrics, coefficients and report are shown besides Ladle itself."""

    trackers: Annotated[
        tuple[TrackerName, ...],
        Field(max_length=4),
        BeforeValidator(one_or_several, json_schema_input_type=TrackerName | tuple[TrackerName, ...]),
    ] = ()
    """The experiment trackers that are told of the job: `tensorboard`, `mlflow`, `wandb` (Weights & Biases) or
    `trackio`. The operator says where each one writes. A tracker that fails does not stop the job."""
    project: FolderName = "ladle"
    """The project, or experiment, that the job's run is put under in the trackers."""
    run: FolderName | None = None
    """What the job's run is called in the trackers. By default it has the name of the result's folder."""


class Resources(Contract):
    """What the job runs on."""

    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """How many worker machines the job uses. It starts when so many are free."""
    min_nodes: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Start with this many machines if no more are free after two minutes, or if there are no more. By default the job
    waits for all of `nodes`."""
    ranks_per_node: Annotated[int, Field(ge=1, le=64)] | None = None
    """How many ranks (processes) run on each machine. By default one per GPU, or one where there is no GPU. Of several
    machines, the one with the fewest GPUs decides."""
    timeout_s: Annotated[float, Field(ge=1, le=31_536_000)] | None = None
    """The longest that the job may run, in seconds, all its attempts together. Waiting in the queue does not count. By
    default there is no limit."""
    placement: Literal["auto", "replicated", "by-parameter", "by-node", "by-checkpoint", "sharded-model"] = "auto"
    """How the directions are spread over the ranks. `auto` takes what fits and communicates least."""
    precision: Literal["auto", "float32", "bfloat16", "int8", "int4", "offload", "streamed"] = "auto"
    """How precisely the directions are stored during the search. `auto` takes the finest that fits. The result is
    always computed from the checkpoints themselves."""

    @field_validator("min_nodes")
    @classmethod
    def _no_more_than_nodes(cls, least: int | None, info: ValidationInfo) -> int | None:
        nodes = info.data.get("nodes")
        if least is not None and nodes is not None and least > nodes:
            raise ValueError(f"must be at most {nodes}, which is `resources.nodes`")
        return least


def _no_nul(given: Paths) -> Paths:
    paths = [given] if isinstance(given, str) else given.values() if isinstance(given, dict) else given
    if any("\0" in path for path in paths):
        raise ValueError("must not contain a NUL character")
    return given


class HasCkptDir(Contract):
    """What is about a folder of checkpoints."""

    ckpt_dir: Annotated[CkptDir, AfterValidator(_no_nul)]
    """The folder of checkpoints, or of runs with checkpoints: a path, a glob such as `runs/*`, or a list of them."""

    @property
    def ckpt_dirs(self) -> dict[str, str]:
        """Each folder or glob by its field: `ckpt_dir`, or `ckpt_dir.N` for each of several."""
        if isinstance(self.ckpt_dir, str):
            return {"ckpt_dir": self.ckpt_dir}
        return {f"ckpt_dir.{number}": path for number, path in enumerate(self.ckpt_dir)}

    @property
    def shown_ckpt_dir(self) -> str:
        """For people, in a line or a table."""
        first, *rest = self.ckpt_dirs.values()
        return f"{first} and {len(rest)} more" if rest else first

    def with_ckpt_dirs(self, change: Callable[[str, str], T]) -> T | list[T]:
        """What `change` makes of a field and its path, for the only folder or for each of several."""
        made = [change(field, path) for field, path in self.ckpt_dirs.items()]
        return made[0] if isinstance(self.ckpt_dir, str) else made


# A field's docstring is the help of the command's flag, the description in the JSON schema and the text in the docs.
# CONTRIBUTING.md, "Add a job option", has the steps.
class JobSpec(HasCkptDir):
    """What a person asks for. Only the two paths are required."""

    val_set: Annotated[ValSet, AfterValidator(_no_nul)]
    """The validation set: a file or a folder that the task reads. Or several sets by their names."""
    task: TaskChoice | None = None
    """What the checkpoints were trained to do."""
    kind: Literal["average", "curve"] = "average"
    """What to make: `average` makes a model, `curve` the merge curve of a run, which says how good the best average is
    at each checkpoint, without a model."""
    curve: CurveChoice = CurveChoice()
    """What is tried at the points of a merge curve."""
    method: MethodChoice = MethodChoice()
    """How the coefficients are chosen."""
    checkpoints: CheckpointFilter = CheckpointFilter()
    """Which checkpoints of the folder take part."""
    adapters: Adapters = Adapters()
    """How LoRA adapters are averaged, where the checkpoints are such."""
    base: PathText | None = None
    """The model that the checkpoints were trained from, such as the pretrained one. It is not averaged like them, and
    has a weight of its own in methods that need it, such as `wise-ft` and `model-stock`. It may be one of the
    checkpoints in the folder."""
    train_set: TrainSet | None = None
    """The training data, if Ladle may use it."""
    select_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """The share of the validation set that judges the candidates. It never trains anything."""
    metric: Name | None = None
    """The metric that judges the candidates. By default it is the task's first."""
    judge_by: JudgeBy = "first"
    """Which of several validation sets judge the candidates: the first one, the mean of all, or those that have a
    weight here, by the weighted mean of their scores. The others are only shown."""
    no_set_worse: bool = False
    """With several validation sets: do not choose a candidate that is worse than the best checkpoint on any of them,
    which means that the whole 95 % interval of its gain is below zero."""
    diagnose: bool = False
    """Also look at why averaging helps or not, for the report: running averages along the run, the loss on the lines
    between checkpoints and in the plane through the results, and whether they lie in one basin. It takes about 210
    evaluations of 256 to 512 examples, and up to 26 of the select split. The result stays the same."""
    output: Output = Output()
    """The folder that the result is written to."""
    resources: Resources = Resources()
    """What the job runs on."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The seed of the splits and of the order of batches."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Jobs of a higher priority start first: a point is worth ten minutes in the queue. Equal ones start in the order
    in which they were submitted."""
    labels: Annotated[dict[LabelName, Label], Field(max_length=50)] = Field(default_factory=dict)
    """Labels of your own, to find the job by."""
    tracking: Tracking = Tracking()
    """Where the job's metrics, coefficients and report are shown besides Ladle itself."""
    webhooks: Webhooks = ()
    """Web addresses that the service calls when the job has ended, however it ended, with the job's record in a signed
    request."""

    @field_validator("method", "no_set_worse", "diagnose")
    @classmethod
    def _of_an_average(cls, value: T, info: ValidationInfo) -> T:
        assert info.field_name is not None, "it validates fields"
        if info.data.get("kind") == "curve" and value != cls.model_fields[info.field_name].default:
            raise ValueError("must be absent with `kind: curve`, which chooses no method")
        return value

    @field_validator("judge_by")
    @classmethod
    def _of_sets(cls, judge_by: str | dict[str, float], info: ValidationInfo) -> str | dict[str, float]:
        val_set = info.data.get("val_set")
        if not isinstance(judge_by, dict) or val_set is None:
            return judge_by
        if isinstance(val_set, str):
            raise ValueError("must name validation sets, but the only one has no name")
        if unknown := next((name for name in judge_by if name not in val_set), None):
            raise ValueError(f"must name validation sets ({', '.join(val_set)}), and there is no `{unknown}`")
        return judge_by

    @property
    def val_sets(self) -> dict[str, str]:
        """The path of each validation set by its field: `val_set`, or `val_set.NAME` for each of several."""
        # Of a newer version it may be something else again.
        if not isinstance(self.val_set, dict):
            return {"val_set": self.val_set}
        return {f"val_set.{name}": path for name, path in self.val_set.items()}

    def with_val_sets(self, change: Callable[[str, str], T]) -> T | dict[str, T]:
        """What `change` makes of a field and its path, for the validation set or for each of several by its name."""
        if isinstance(self.val_set, str):
            return change("val_set", self.val_set)
        return {name: change(f"val_set.{name}", path) for name, path in self.val_set.items()}


def read_spec(text: str | bytes) -> JobSpec:
    """A spec that another process has accepted and written, perhaps of another version.

    Unknown fields are kept, and so are values that this version would refuse, such as a new precision: whoever reads a
    record must see what was asked for. What runs a job must refuse them (`JobSpec.read`). Only what is nested too
    deeply for others to read, or is huge, is left out.
    """
    try:
        return JobSpec.read(text)
    except ValidationError:
        spec: JobSpec = _as_written(JobSpec, json.loads(text))
        return spec


def _as_written(model: type[Contract], values: dict[str, Any]) -> Any:
    values = {name: value for name, value in values.items() if not _is_unwieldy(value)}
    known = {name: value for name, value in values.items() if name in model.model_fields}
    for name, value in known.items():
        part = _part_of(model, name)
        if part is not None and isinstance(value, dict):
            known[name] = _as_written(part, value)
        elif isinstance(value, list):
            known[name] = tuple(value)
    made = model.model_construct(**known)
    object.__setattr__(made, "__pydantic_extra__", {name: values[name] for name in values.keys() - known.keys()})
    return made


def _is_unwieldy(value: Any) -> bool:
    level = [value]
    for _ in range(4 * OPTIONS_DEPTH):
        level = [inner for each in level for inner in inside(each)]
    return bool(level) or len(to_json(value)) > 2 * OPTIONS_BYTES


def _part_of(model: type[Contract], field: str) -> type[Contract] | None:
    """The model of a field that groups options, such as `checkpoints`."""
    annotation = model.model_fields[field].annotation
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Contract):
            return kind
    return None


WrittenSpec = Annotated[
    JobSpec, BeforeValidator(lambda given: read_spec(json.dumps(given)) if isinstance(given, dict) else given)
]

"""A task's faults are told as its own, with file and line, before anything is trained; the machine's are not its."""

from __future__ import annotations

import errno
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ladle_engine import average
from ladle_engine.checkpoints import discover
from ladle_engine.distributed.collectives import RankLostError
from ladle_engine.errors import DataError, EngineError, TaskError
from ladle_engine.progress import ProgressEvent, StageStarted, Warned
from ladle_engine.tasks import Metric, catalog, choose_task, load_tasks
from ladle_engine.tasks.image_classification import ImageClassification, ImageOptions
from tests.builders import make_checkpoints, make_val_set
from tests.plug_ins import install, line_of, task_source
from tests.unit.engine.toy import ToyData, ToyTask, plain_net, write_checkpoints

Install = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("toys")
    write_checkpoints(made, plain_net, count=3)
    return made


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("images")
    return make_checkpoints(root / "checkpoints", count=3), make_val_set(root / "val.npz")


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs one for this test."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))

    def install_here(name: str, source: str, **more: str) -> Path:
        file = install(folder, name, source, **more)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
        return file

    return install_here


def failing(part: str, error: BaseException) -> type[ToyTask]:
    def fail(*_: Any) -> Any:
        raise error

    return type("Failing", (ToyTask,), {"__module__": __name__, part: fail})


class Panic(BaseException):
    """As a library in Rust raises."""


class Speechless(Exception):
    def __str__(self) -> str:
        raise KeyError("no words")


PARTS = ("build_model", "stored_names", "open_data", "loss", "evaluate")


@pytest.mark.parametrize("part", PARTS)
def test_an_error_of_a_part_is_told_with_file_line_type_and_text(folder: Path, tmp_path: Path, part: str) -> None:
    with pytest.raises(TaskError) as caught:
        average(folder, folder, output=tmp_path / "out", task=failing(part, ZeroDivisionError("by zero")))
    assert caught.value.code == "task-failed"
    place = rf"\({re.escape(__file__)}, line {line_of(Path(__file__), 'raise error')}\)"
    assert re.match(rf"Task `toy` fails in `{part}` {place}: ZeroDivisionError: by zero\. ", caught.value.message)
    assert "check_task" in caught.value.message
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (StopIteration(), "StopIteration"),
        (Panic("called `unwrap` on a `None`"), "Panic: called `unwrap`"),
        (Speechless(), "Speechless. "),
        (RuntimeError("two\n  lines"), "RuntimeError: two lines."),
        (FileNotFoundError(errno.ENOENT, "No such file", "labels.txt"), "FileNotFoundError: [Errno 2] No such file"),
        (ValueError("x" * 10_000), "ValueError: xxx"),
        (AssertionError(), "AssertionError. "),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_whatever_is_raised_is_the_tasks_fault(folder: Path, tmp_path: Path, error: BaseException, words: str) -> None:
    for part in ("open_data", "loss"):
        with pytest.raises(TaskError) as caught:
            average(folder, folder, output=tmp_path / "out", task=failing(part, error))
        assert caught.value.code == "task-failed"
        assert words in caught.value.message
        assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        RankLostError("rank 1 did not answer"),
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        DataError("empty-data", "`val` must hold examples, but holds none."),
    ],
    ids=str,
)
def test_what_is_the_machines_or_ladles_own_stays_what_it_is(
    folder: Path, tmp_path: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught:
        average(folder, folder, output=tmp_path / "out", task=failing("loss", error))
    assert caught.value is error


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")], ids=str)
def test_a_task_that_runs_out_of_memory_is_no_broken_task(folder: Path, tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(EngineError) as caught:
        average(folder, folder, output=tmp_path / "out", task=failing("loss", error))
    assert caught.value.code == "out-of-memory"


def test_a_network_that_fails_in_its_backward_pass_is_the_tasks_fault(folder: Path, tmp_path: Path) -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError("no gradient here")

    class Net(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Broken.apply(super().forward(x))

    with pytest.raises(TaskError, match=r"fails in `loss` .*NotImplementedError: no gradient here") as caught:
        average(folder, folder, output=tmp_path / "out", task=ToyTask(lambda: Net(*plain_net())))
    assert f"line {line_of(Path(__file__), 'no gradient here')}" in caught.value.message


def toy(**changes: Any) -> type[ToyTask]:
    return type("Toy", (ToyTask,), {"__module__": __name__, **changes})


def scores(change: Any) -> type[ToyTask]:
    return toy(evaluate=lambda self, model, batch: {"loss": change(ToyTask.evaluate(self, model, batch)["loss"])})


def loss(change: Any) -> type[ToyTask]:
    return toy(loss=lambda self, model, batch: change(ToyTask.loss(self, model, batch)))


def data(change: Any) -> type[ToyTask]:
    kind = type("Data", (ToyData,), {"batch": lambda self, indices: change(ToyData.batch(self, indices))})
    return toy(open_data=lambda self, path, checkpoints: kind(self.count))


AT_ONCE: dict[str, tuple[type[ToyTask], str]] = {
    "no loss metric": (toy(metrics=(Metric(name="mse", higher_is_better=False),)), "must have one named `loss`"),
    "scalar metrics": (scores(lambda values: values.mean()), "one value per example for `loss`, float32 [8] here"),
    "a column": (scores(lambda values: values[:, None]), "but returns float32 [8, 1]"),
    "too long": (scores(lambda values: values.repeat(2)), "but returns float32 [16]"),
    "float64": (scores(lambda values: values.double()), "but returns float64 [8]"),
    "numpy": (scores(lambda values: values.numpy()), "but returns ndarray"),
    "nothing": (scores(lambda values: None), "but returns None"),
    "another device": (scores(lambda values: values.to("meta")), "but returns"),
    "no mapping": (toy(evaluate=lambda self, model, batch: torch.zeros(8)), "a mapping from metric names to tensors"),
    "a loss per example": (loss(lambda value: value.expand(4)), "a float32 scalar tensor, but returns float32 [4]"),
    "a detached loss": (loss(lambda value: value.detach()), "must be differentiable by the model's parameters"),
    "a constant loss": (loss(lambda value: torch.zeros((), requires_grad=True) * 1), "none of them gets a gradient"),
    "half a batch": (data(lambda batch: {**batch, "y": batch["y"][::2]}), "but returns float32 [4, 1] for `y`"),
    "a batch of numbers": (data(lambda batch: {**batch, "n": torch.tensor(8)}), "but returns int64 [] for `n`"),
    "an empty batch": (data(lambda batch: {}), "must return a mapping from names to tensors, but returns dict {}"),
    "a list": (data(lambda batch: {**batch, "names": ["a"] * 8}), "must return a tensor for `names`"),
    "no model": (toy(build_model=lambda self, checkpoints: print), "must return a `torch.nn.Module`"),
    "a model without memory": (
        toy(build_model=lambda self, checkpoints: plain_net().to("meta")),
        "must return a model whose tensors have memory, but returns `0.weight` on the device `meta`",
    ),
    "no data": (toy(open_data=lambda self, path, checkpoints: []), "must return a data set with `__len__` and"),
    "batch_size of none": (toy(__init__=lambda self: None), "`batch_size` of task `toy` must be a whole number from 1"),
    "batch_size 0": (toy(__init__=lambda self: ToyTask.__init__(self, batch_size=0)), "from 1, but is int 0"),
    "batch_size of text": (toy(__init__=lambda self: ToyTask.__init__(self, batch_size="8")), "but is str '8'"),  # type: ignore[arg-type]
    "batch_size True": (toy(__init__=lambda self: ToyTask.__init__(self, batch_size=True)), "but is bool True"),
    "a property that fails": (toy(summary=property(lambda self: 1 / 0)), "fails in its declarations"),
    "a missing method": (toy(stored_names=None), "`stored_names` of task `toy` must be a method, but is None"),
}


@pytest.mark.parametrize("case", AT_ONCE)
def test_a_broken_rule_ends_the_job_before_anything_is_trained_or_judged(
    folder: Path, tmp_path: Path, case: str
) -> None:
    kind, words = AT_ONCE[case]
    told: list[ProgressEvent] = []
    with pytest.raises(TaskError) as caught:
        average(folder, folder, output=tmp_path / "out", task=kind(), progress=told.append)
    assert caught.value.code == "task-failed"
    assert words in caught.value.message, caught.value.message
    stages = {event.stage for event in told if isinstance(event, StageStarted)}
    assert stages <= {"discover", "check"}


def test_a_loss_that_is_nan_from_the_start_is_refused_at_once(folder: Path, tmp_path: Path) -> None:
    told: list[ProgressEvent] = []
    with pytest.raises(TaskError, match=r"must be finite, but is nan on the first 8 examples .* `step-2\.s") as caught:
        average(folder, folder, output=tmp_path / "out", task=loss(lambda value: value.log() * 0 / 0),
                progress=told.append)  # fmt: skip
    assert caught.value.code == "non-finite-loss"
    assert {event.stage for event in told if isinstance(event, StageStarted)} <= {"discover", "check"}


def test_weights_that_are_nan_before_a_checkpoint_fills_them_are_no_fault(folder: Path, tmp_path: Path) -> None:
    def unfilled() -> nn.Module:
        model = plain_net()
        for parameter in model.parameters():
            nn.init.constant_(parameter, float("nan"))
        return model

    assert average(folder, folder, output=tmp_path / "out", task=ToyTask(unfilled), method="uniform").method


@pytest.mark.parametrize(
    "task", [3, object(), nn.Linear(2, 2), lambda: ToyTask()], ids=lambda task: type(task).__name__
)
def test_what_is_no_task_is_refused_by_the_method_it_lacks(folder: Path, tmp_path: Path, task: Any) -> None:
    with pytest.raises(TaskError, match="must be a method, but is None"):
        average(folder, folder, output=tmp_path / "out", task=task)


# Instances and classes


class Mine(ImageClassification):
    """A subclass as the documents show it."""

    name = "mine"

    @classmethod
    def recognises(cls, checkpoints: Any) -> bool:
        return False

    def build_model(self, checkpoints: Any) -> nn.Module:
        from ladle_small_cnn import SmallCnn

        return SmallCnn(num_channels=1, num_classes=10, image_size=8, width=4, batch_norm=False)

    def shape(self, checkpoints: Any) -> Any:
        from ladle_engine.tasks.images import ImageShape

        return ImageShape(channels=1, num_classes=10, class_ids=None)


def test_a_subclass_of_image_classification_needs_no_options(images: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoints, val_set = images
    made = {
        "instance": average(checkpoints, val_set, output=tmp_path / "instance", task=Mine(), method="uniform"),
        "class": average(checkpoints, val_set, output=tmp_path / "class", task=Mine, method="uniform"),
    }
    assert Mine().batch_size == ImageOptions().batch_size == 128
    assert Mine(ImageOptions(batch_size=7)).batch_size == 7
    assert made["instance"].candidates == made["class"].candidates


def test_a_class_takes_task_options_and_an_instance_has_its_own(images: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoints, val_set = images
    found = discover(checkpoints)
    assert choose_task(found, Mine, {"batch_size": 5}).batch_size == 5
    with pytest.raises(TaskError, match="`task_options=` must be absent with an instance") as caught:
        average(checkpoints, val_set, output=tmp_path / "out", task=Mine(), task_options={"batch_size": 5})
    assert caught.value.code == "invalid-task-options"
    with pytest.raises(TaskError, match="`batchsize` must be an option of task `mine`"):
        choose_task(found, Mine, {"batchsize": 5})


def test_image_classification_without_a_config_says_that_it_needs_one(
    images: tuple[Path, Path], tmp_path: Path
) -> None:
    checkpoints, val_set = images
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for file in checkpoints.glob("*.safetensors"):
        (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(TaskError, match=r"must know the model: by a `config\.json`") as caught:
        average(folder, val_set, output=tmp_path / "out", task="image-classification")
    assert caught.value.code == "model-mismatch"
    assert average(folder, val_set, output=tmp_path / "out", task=Mine, method="uniform").method, "which needs none"


# Installed plug-ins


SOURCES: dict[str, tuple[str, str]] = {
    "a syntax error": ("class Task(SmallCnnTask:\n", "SyntaxError"),
    "an import that is missing": ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
    "an exit": ("sys.exit('not on this machine')  # here\n", "SystemExit: not on this machine"),
    "no class of that name": ("Other = SmallCnnTask\n", "AttributeError: module 'a_plug_in' has no attribute 'Task'"),
    "an error": ("nothing[0]\n", "NameError: name 'nothing' is not defined"),
    "no class": ("Task = SmallCnnTask()\n", "must name a class, but `a_plug_in:Task` is SmallCnnTask"),
    "a class of something else": ("class Task:\n    pass\n", "`recognises` of task `a-plug-in` must be a method"),
    "no loss": (task_source("a-plug-in", "metrics = SmallCnnTask.metrics[:1]"), "must have one named `loss`"),
    "options of no dataclass": (task_source("a-plug-in", "options_type = dict"), "must be a dataclass"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_a_plug_in_that_does_not_load_is_named_and_stops_no_other(
    images: tuple[Path, Path], tmp_path: Path, plug_in: Install, case: str
) -> None:
    source, words = SOURCES[case]
    file = plug_in("a-plug-in", source)
    checkpoints, val_set = images
    with pytest.raises(TaskError) as caught:
        average(checkpoints, val_set, output=tmp_path / "out", task="a-plug-in")
    assert caught.value.code == "task-failed"
    assert words in caught.value.message, caught.value.message
    if case in ("a syntax error", "an import that is missing", "an exit", "an error"):
        assert f"({file}, line {line_of(file, source.splitlines()[0])})" in caught.value.message
    assert words in load_tasks()[1]["a-plug-in"]
    assert {"image-classification", "small-cnn"} <= {entry["name"] for entry in catalog()}
    outcome = average(checkpoints, val_set, output=tmp_path / "out", method="uniform")
    (warning,) = outcome.warnings
    assert warning.startswith("A task was passed over.")
    assert words in warning
    assert not average(checkpoints, val_set, output=tmp_path / "two", method="uniform", task="small-cnn").warnings


def test_a_named_task_is_chosen_without_importing_any_other(images: tuple[Path, Path], plug_in: Install) -> None:
    plug_in("a-plug-in", "os.kill(os.getpid(), signal.SIGKILL)\n")
    assert choose_task(discover(images[0]), "small-cnn", {}).name == "small-cnn"


RECOGNISING = "@classmethod\ndef recognises(cls, checkpoints):\n    return {}\n"


def test_a_plug_in_that_cannot_say_what_it_recognises_stops_no_other(
    images: tuple[Path, Path], tmp_path: Path, plug_in: Install
) -> None:
    source = task_source("a-plug-in", RECOGNISING.format("checkpoints.config['model_type'] == 'mine'"))
    file = plug_in("a-plug-in", source)
    told: list[ProgressEvent] = []
    assert choose_task(discover(images[0]), None, {}, told.append).name == "small-cnn"
    (warning,) = [event.message for event in told if isinstance(event, Warned)]
    assert f"({file}, line {line_of(file, 'model_type')}): KeyError: 'model_type'" in warning
    write_checkpoints(tmp_path / "toys", plain_net, count=2)
    with pytest.raises(TaskError, match="TypeError: 'NoneType' object is not subscriptable") as caught:
        choose_task(discover(tmp_path / "toys"), None, {})
    assert caught.value.code == "task-failed", "which might have recognised the folder"


def test_of_two_tasks_that_recognise_a_folder_one_must_be_named(images: tuple[Path, Path], plug_in: Install) -> None:
    plug_in("a-plug-in", task_source("a-plug-in", RECOGNISING.format("True")))
    found = discover(images[0])
    with pytest.raises(TaskError, match="that a-plug-in and small-cnn all recognise") as caught:
        choose_task(found, None, {})
    assert caught.value.code == "unknown-task"
    assert choose_task(found, "a-plug-in", {}).name == "a-plug-in"


def test_two_plug_ins_of_one_name_are_both_refused_by_name(images: tuple[Path, Path], plug_in: Install) -> None:
    plug_in("small-cnn", task_source("small-cnn", "pass"))
    with pytest.raises(
        TaskError, match=r"must be installed once, but there are .*ladle_small_cnn.* of ladle-small-cnn"
    ):
        choose_task(discover(images[0]), "small-cnn", {})


def test_a_misspelt_task_is_corrected(images: tuple[Path, Path]) -> None:
    with pytest.raises(TaskError, match=r"but is `small-cn`\. Did you mean `small-cnn`\?"):
        choose_task(discover(images[0]), "small-cn", {})

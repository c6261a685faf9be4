"""For authors of tasks: a test of one's own task against the rules of `ladle_engine.tasks.Task`.

from ladle_engine.testing import check_task

def test_my_task_follows_the_rules() -> None:
    check_task(MyTask, "tests/data/checkpoints", "tests/data/val.npz")
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ladle_engine.checkpoints import CheckpointSet, discover
from ladle_engine.errors import EngineError, TaskError
from ladle_engine.model.binding import Binding, bind
from ladle_engine.paths import PathLike
from ladle_engine.tasks import contract
from ladle_engine.tasks.base import Batch, DataSet, Generates, GivesLogits, Task
from ladle_engine.tasks.choose import make_task, recognises
from ladle_engine.tasks.contract import Broken
from ladle_engine.tasks.faults import ADVICE
from ladle_engine.tasks.guard import (
    backward,
    by_entropy,
    for_folder,
    gives_logits,
    guard,
    open_unlabelled,
    trained_part,
    trains_unlabelled,
)
from ladle_engine.tasks.identity import name_of
from ladle_engine.tasks.installed import load_task

EXAMPLES = 8
"""As many are looked at, or all where there are fewer."""
RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""Sums of float32 in another order, or of another size, differ by less."""
UNKNOWN_OPTION = "no_task_has_this_option"


def check_task(
    task: str | type[Task] | Task,
    ckpt_dir: PathLike,
    val_set: PathLike,
    *,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Calls everything that a job calls, on the CPU, and some of it twice. Returns when no rule is broken.

    Args:
        task: the class, an instance, or the name under which it is installed.
        ckpt_dir: two or more checkpoints of the task; small ones will do.
        val_set: at least 2 examples.
        options: of the task, where `task` is no instance.

    Raises:
        AssertionError: with every rule that the task breaks, and where.
        CheckpointError: `ckpt_dir` does not hold checkpoints.
    """
    __tracebackhide__ = True
    checkpoints = discover(Path(ckpt_dir))
    found = load_task(task) if isinstance(task, str) else task
    check = _Check(name=name_of(found))
    check.run(found, checkpoints, Path(val_set), options or {})
    if check.faults:
        rules = "1 rule" if len(check.faults) == 1 else f"{len(check.faults)} rules"
        raise AssertionError("\n- ".join([f"Task `{check.name}` breaks {rules}:", *dict.fromkeys(check.faults)]))


@dataclass(kw_only=True)
class _Check:
    """Goes on after a fault, with whatever does not need what was faulty."""

    name: str
    faults: list[str] = field(default_factory=list)

    def run(self, task: Any, checkpoints: CheckpointSet, val_set: Path, options: Mapping[str, Any]) -> None:
        for broken in contract.broken_declarations(task):
            self.found(broken)
        if self.faults:
            return
        made = self.attempt(lambda: for_folder(self.instance(task, options), checkpoints))
        self.recognition(type(task) if not isinstance(task, type) else task, checkpoints)
        if made is None:
            return
        binding = self.attempt(lambda: self.binding(made, checkpoints))
        data = self.attempt(lambda: made.open_data(val_set, checkpoints))
        if data is not None and self.data(data) and binding is not None:
            binding.load(checkpoints.reference)
            _Values(check=self, task=made, model=binding.model.eval(), data=data).run()
            if trains_unlabelled(made):
                self.unlabelled(by_entropy(made), binding, checkpoints, val_set)

    def unlabelled(self, task: Task, binding: Binding, checkpoints: CheckpointSet, val_set: Path) -> None:
        """Of a task that can be trained without labels: those of the validation set must not matter."""
        data = self.attempt(lambda: open_unlabelled(task, val_set, checkpoints))
        if data is not None and self.data(data, "open_unlabelled"):
            values = _Values(check=self, task=task, model=binding.model.eval(), data=data)
            whole, *parts = values.batches()
            self.attempt(lambda: values.loss(whole, parts))

    def found(self, broken: Broken | None) -> bool:
        if broken is not None:
            self.faults.append(broken.message(self.name))
        return broken is not None

    def attempt(self, step: Callable[[], Any]) -> Any:
        """What it gives; None where it fails, which is a fault."""
        try:
            return step()
        except EngineError as error:
            self.faults.append(error.message.removesuffix(ADVICE))
            return None

    def instance(self, task: Any, options: Mapping[str, Any]) -> Task:
        if not isinstance(task, type):
            return guard(task)
        made = make_task(task, options)
        self.attempt(lambda: self.options(task, options))
        return made

    def options(self, task: type[Task], options: Mapping[str, Any]) -> None:
        if make_task(task, {**options, "batch_size": 3}).batch_size != 3:
            self.found(Broken("from_options", "take the option `batch_size`", "ignores it"))
        try:
            make_task(task, {**options, UNKNOWN_OPTION: 1})
        except TaskError as error:
            if error.code == "invalid-task-options":
                return
            raise
        rule = "raise `TaskError` (invalid-task-options) for an option that does not exist; `parse_options` does"
        self.found(Broken("from_options", rule, "takes any"))

    def recognition(self, task: type[Task], checkpoints: CheckpointSet) -> None:
        self.attempt(lambda: recognises(task, checkpoints))
        self.attempt(lambda: self.strangers(task))

    def strangers(self, task: type[Task]) -> None:
        for config in (None, "{}", '{"architectures": ["OfAnotherTask"], "model_type": "another"}'):
            with _checkpoints_of_another_task(config) as others:
                if recognises(task, others):
                    kind = "no `config.json`" if config is None else f"the `config.json` {config}"
                    rule = "return False for a folder of another task"
                    self.found(Broken("recognises", rule, f"returns True for one with {kind}"))
                    return

    def binding(self, task: Task, checkpoints: CheckpointSet) -> Binding | None:
        model, again = (task.build_model(checkpoints).float() for _ in range(2))
        if list(model.state_dict()) != list(again.state_dict()):
            self.found(Broken("build_model", "return the same architecture each time", "returns another one"))
        if self.found(contract.broken_memory(model)):
            return None
        names = task.stored_names(model, checkpoints)
        for name, stored in names.items():
            # Others stand for tensors of the checkpoints that the model has no use for.
            if name not in model.state_dict() and stored not in checkpoints.tensors:
                self.found(Broken("stored_names", "have names of the model's tensors as keys", f"has `{name}`"))
        return bind(model, checkpoints, names)

    def data(self, data: DataSet, opened_by: str = "open_data") -> bool:
        """Whether there are batches to go on with."""
        count = self.attempt(lambda: len(data))
        if count is not None and count < 2:
            self.found(Broken(f"{opened_by}(...).__len__", "be at least 2 in this test", f"is {count}"))
        if count is None or count < 2:
            return False
        indices = torch.arange(min(count, EXAMPLES))
        part = f"{opened_by}(...).batch"
        batches = self.attempt(lambda: [data.batch(indices), data.batch(indices), data.batch(indices.flip(0))])
        if batches is None or self.attempt(lambda: data.batch(indices[-1:])) is None:
            return False
        for name, tensor in batches[0].items():
            if tensor.device.type != "cpu":
                self.found(Broken(part, "return tensors on the CPU", f"`{name}` is on {tensor.device}"))
            if not _equal(tensor, batches[1].get(name)):
                value = f"gives another `{name}` the second time"
                self.found(Broken(part, "give the same examples each time, so without augmentation", value))
            elif not _equal(tensor.flip(0), batches[2].get(name)):
                rule = "give the examples in the order of the indices"
                self.found(Broken(part, rule, f"`{name}` is not turned around with them"))
        return True


@dataclass(frozen=True, kw_only=True)
class _Values:
    """The checks of `loss` and `evaluate`, with the weights of a checkpoint."""

    check: _Check
    task: Task
    model: nn.Module
    data: DataSet

    @property
    def trained(self) -> str:
        """The method whose value is trained."""
        return trained_part(self.task)

    def batches(self) -> list[Batch]:
        """The first examples, and the same in parts."""
        count = min(len(self.data), EXAMPLES)
        return [self.data.batch(part) for part in _with_its_parts(torch.arange(count))]

    def run(self) -> None:
        whole, *parts = self.batches()
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.check.attempt(lambda: self.loss(whole, parts))
        self.check.attempt(lambda: self.scores(whole, parts))
        for name, tensor in self.model.state_dict().items():
            if not _equal(tensor, before[name]):
                self.check.found(
                    Broken("loss", "leave the model as it is, and so must `evaluate`", f"`{name}` changes")
                )
                return

    def loss(self, whole: Batch, parts: list[Batch]) -> None:
        differentiable = self.task.loss(self.model, whole)
        loss = differentiable.detach()
        if self.check.found(contract.broken_finite(float(loss), _count(whole), "the last checkpoint", self.trained)):
            return
        self.gradient(differentiable)
        with torch.no_grad():
            again = self.task.loss(self.model, whole)
            means = [self.task.loss(self.model, part) * _count(part) for part in parts]
        if not _close(loss, again):
            value = f"is {float(loss):g} and then {float(again):g}"
            self.check.found(Broken(self.trained, "be the same for the same batch and weights", value))
        elif not _close(loss, torch.stack(means).sum() / _count(whole)):
            value = (
                f"is {float(loss):g} for {_count(whole)} examples, and {float(sum(means)) / _count(whole):g} by parts"
            )
            self.check.found(Broken(self.trained, "be the mean over the examples, not a sum", value))

    def gradient(self, loss: Tensor) -> None:
        self.model.zero_grad()
        backward(self.task, loss)
        if all(parameter.grad is None for parameter in self.model.parameters()):
            self.check.found(Broken(self.trained, "depend on the model's parameters", "none of them gets a gradient"))
        self.model.zero_grad()

    @torch.no_grad()
    def scores(self, whole: Batch, parts: list[Batch]) -> None:
        self._scores_of("evaluate", self.task.evaluate, whole, parts)
        if gives_logits(self.task):
            self._scores_of("of_logits", self._by_logits, whole, parts)
            self._same_as_evaluated(whole)
        if any(metric.generated for metric in self.task.metrics):
            self._scores_of("generate", cast(Generates, self.task).generate, whole, parts)

    def _by_logits(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        task = cast(GivesLogits, self.task)
        return task.of_logits(task.logits(model, batch), task.targets(batch))

    def _same_as_evaluated(self, batch: Batch) -> None:
        """The loss that is kept and combined must be the one that is trained, and keep float64."""
        kept = self._by_logits(self.model, batch)["loss"]
        task = cast(GivesLogits, self.task)
        task.of_logits(task.logits(self.model, batch).double(), task.targets(batch))
        for name, loss in (
            ("evaluate", self.task.evaluate(self.model, batch)["loss"]),
            (self.trained, self.task.loss(self.model, batch)),
        ):
            if not _close(kept.mean(), loss.mean()):
                rule = f"give the same mean loss as `{name}`"
                value = f"gives {float(kept.mean()):g} instead of {float(loss.mean()):g}"
                self.check.found(Broken("of_logits", rule, value))

    def _scores_of(
        self, name: str, score: Callable[[nn.Module, Batch], Mapping[str, Tensor]], whole: Batch, parts: list[Batch]
    ) -> None:
        """`name` is the method's."""
        metrics = [metric for metric in self.task.metrics if metric.generated is (name == "generate")]
        scores = score(self.model, whole)
        if self.check.found(contract.out_of_range(scores, metrics, name)):
            return
        by_parts = [score(self.model, part) for part in parts]
        for statistic in dict.fromkeys(need for metric in metrics for need in metric.needs):
            if not _close(scores[statistic], torch.cat([part[statistic] for part in by_parts])):
                rule = f"give each example a `{statistic}` that does not depend on the others in its batch"
                self.check.found(Broken(name, rule, "gives other values when the batch is cut in two"))


def _with_its_parts(indices: Tensor) -> list[Tensor]:
    """Parts of different sizes, one of them a single example."""
    return [indices, indices[:1], indices[1:]]


def _count(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=RELATIVE, atol=ABSOLUTE)


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


@contextmanager
def _checkpoints_of_another_task(config: str | None) -> Iterator[CheckpointSet]:
    with tempfile.TemporaryDirectory() as folder:
        for number in (1, 2):
            save_file({"of.another.task": torch.full((3,), float(number))}, Path(folder) / f"step-{number}.safetensors")
        if config is not None:
            (Path(folder) / "config.json").write_text(config)
        yield discover(Path(folder))

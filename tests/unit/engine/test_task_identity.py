"""A resume state belongs to one task: another of the same name never gets its scores, and the same one does."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ladle_engine import average
from ladle_engine.checkpoints import discover
from ladle_engine.tasks import Task, choose_task, identity_of
from tests.builders import make_checkpoints
from tests.plug_ins import install, task_source
from tests.unit.engine.toy import ToyTask, plain_net, write_checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("toys")
    write_checkpoints(made, plain_net, count=3)
    return made


class Counted(ToyTask):
    """Counts the batches that it judges, and scores them its own way."""

    def __init__(self, scale: float = 1.0, **more: Any) -> None:
        super().__init__(**more)
        self.scale = scale
        self._judged = 0

    def evaluate(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        self._judged += 1
        return {"loss": self.scale * super().evaluate(model, batch)["loss"]}


class Doubled(Counted):
    def evaluate(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"loss": 2 * super().evaluate(model, batch)["loss"]}


def made_with(factor: float) -> type[Counted]:
    """Classes that have all in common but a variable of the function around them."""

    class Same(Counted):
        def evaluate(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            return {"loss": factor * super().evaluate(model, batch)["loss"]}

    return Same


def with_attribute(factor: float) -> Counted:
    """Classes that differ in an attribute alone."""
    task: Counted = type("Attribute", (Counted,), {"factor": factor, "__module__": __name__})()
    task.scale = factor
    return task


PAIRS = {
    "another class": (Counted(), Doubled()),
    "another number": (Counted(), Counted(scale=2.0)),
    "another closure": (made_with(1.0)(), made_with(2.0)()),
    "another attribute": (with_attribute(1.0), with_attribute(2.0)),
    "another batch_size": (Counted(), Counted(scale=2.0, batch_size=4)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_another_task_of_the_same_name_never_gets_old_scores(folder: Path, tmp_path: Path, pair: str) -> None:
    found = [
        average(
            folder, folder, output=tmp_path / str(number), task=task, state_dir=tmp_path / "state", method="uniform"
        )
        for number, task in enumerate(PAIRS[pair])
    ]
    one, other = ([score.select["loss"] for score in outcome.candidates] for outcome in found)
    assert other == pytest.approx([2 * loss for loss in one])


def test_the_same_task_goes_on_from_what_it_knew(folder: Path, tmp_path: Path) -> None:
    tasks = [Counted(), Counted()]
    for number, task in enumerate([*tasks, tasks[0]]):
        average(
            folder, folder, output=tmp_path / str(number), task=task, state_dir=tmp_path / "state", method="uniform"
        )
    assert len(list((tmp_path / "state").iterdir())) == 1
    assert tasks[1]._judged == 1, "its first batch alone, which is looked at in every attempt"


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "tensors": (torch.zeros(3), torch.tensor([0.0, 0.0, 1e-9])),
    "types of tensors": (torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)),
    "functions": (lambda x: x + 1, lambda x: x + 2),
    "functions of others": (lambda x: sum(x), lambda x: max(x)),
    "networks": (nn.Linear(2, 2), nn.Linear(2, 2)),
    "lists": ([1, 2], [2, 1]),
    "paths": (Path("a"), Path("b")),
    "nested": ({"a": [{"b": (1, 2)}]}, {"a": [{"b": (1, 3)}]}),
    "types": (int, float),
    "words": ({"a", "b"}, {"a", "c"}),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_a_task_is_told_by_what_it_was_made_with(case: str) -> None:
    def identity(value: Any) -> str:
        task = ToyTask()
        task.setting = value  # type: ignore[attr-defined]
        return json.dumps(identity_of(task))

    one, other = DIFFERENT[case]
    assert identity(one) == identity(one)
    assert identity(one) != identity(other)


def test_tasks_that_hold_themselves_or_very_much_have_an_identity_too() -> None:
    task = ToyTask()
    task.me = task  # type: ignore[attr-defined]
    task.chain = chain = {}  # type: ignore[attr-defined]
    for _ in range(1000):
        chain["next"] = chain = {}
    task.sparse = torch.zeros(2, 2).to_sparse()  # type: ignore[attr-defined]
    task.empty = torch.empty(3, device="meta")  # type: ignore[attr-defined]
    assert json.dumps(identity_of(task)) == json.dumps(identity_of(task))


PRINT_IDENTITY = """
import json, sys
from pathlib import Path
from ladle_engine.checkpoints import discover
from ladle_engine.tasks import choose_task, identity_of
print(json.dumps(identity_of(choose_task(discover(Path(sys.argv[1])), None, {"batch_size": 9}))))
"""


def test_a_task_is_the_same_in_every_process(tmp_path: Path) -> None:
    checkpoints = make_checkpoints(tmp_path / "checkpoints", count=2)
    done = subprocess.run(
        [sys.executable, "-c", PRINT_IDENTITY, str(checkpoints)], capture_output=True, text=True, check=True
    )
    own = identity_of(choose_task(discover(checkpoints), None, {"batch_size": 9}))
    assert json.loads(done.stdout) == json.loads(json.dumps(own))
    assert own["type"] == "ladle_small_cnn.SmallCnnTask"
    assert own["distribution"] == "ladle-small-cnn 0.1.0"


def test_another_version_or_source_of_a_plug_in_is_another_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = discover(make_checkpoints(tmp_path / "checkpoints", count=2))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def installed(version: str, source: str) -> Mapping[str, Any]:
        for old in (tmp_path / "site").glob("*.dist-info/*"):
            old.unlink()
        for old in (tmp_path / "site").glob("*.dist-info"):
            old.rmdir()
        install(tmp_path / "site", "of-two-versions", source, version=version)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "of_two_versions", raising=False)
        return identity_of(choose_task(checkpoints, "of-two-versions", {}))

    source = task_source("of-two-versions", "pass")
    first = installed("1.0", source)
    assert first["distribution"] == "of-two-versions 1.0"
    assert installed("1.0", source) == first
    assert installed("1.1", source) != first
    assert installed("1.0", source + "\nHELPER = 1\n") != first


def test_the_guard_does_not_hide_what_a_task_is() -> None:
    task = ToyTask()
    guarded: Task = choose_task(None, task, {})  # type: ignore[arg-type]  # a given task needs no checkpoints
    assert identity_of(guarded) == identity_of(task)
    assert choose_task(None, guarded, {}) is guarded  # type: ignore[arg-type]

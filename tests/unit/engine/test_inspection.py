"""What `inspect` says about folders, good and bad, and how little it reads for that."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification

from ladle_engine import EngineError, Inspection, check, curve, discover, inspect
from ladle_engine.average import precheck
from tests.builders import make_base, make_checkpoints, make_val_set
from tests.unit.engine.lora import make_sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_checkpoints(tmp_path / "run", count=4)


def row(found: Inspection, name: str) -> dict[str, object]:
    return next(each for each in found.to_json()["checkpoints"] if each["name"] == name)


def codes(found: Inspection) -> list[str]:
    return [problem.code for problem in found.problems]


def test_every_checkpoint_has_a_row_and_the_plan_says_what_would_happen(folder: Path) -> None:
    found = inspect(folder)
    assert found.usable
    assert found.problems == ()
    names = [f"epoch-{number}.safetensors" for number in (1, 2, 3, 4)]
    assert [each.name for each in found.checkpoints] == names
    first = found.checkpoints[0]
    assert (first.format, first.step, first.step_from, first.dtype) == ("safetensors", 1, "name", "float32")
    state = load_file(folder / names[0])
    assert first.num_tensors == len(state)
    assert first.num_parameters == sum(tensor.numel() for tensor in state.values())
    assert first.size_bytes == (folder / names[0]).stat().st_size
    plan = found.plan
    assert plan is not None
    assert (plan.checkpoints, plan.order, plan.task, plan.model) == (tuple(names), "epoch", "small-cnn", "SmallCnn")
    assert plan.groups["model"] == 1 < plan.groups["layers"]
    assert "twa" in plan.methods
    assert plan.memory is not None
    assert 0 < plan.memory.needed_bytes < plan.memory.available_bytes


def test_of_a_curve_the_plan_is_that_of_a_curve(folder: Path, tmp_path: Path) -> None:
    plan = inspect(folder, kind="curve").plan
    assert plan is not None
    assert plan.memory is not None
    made = curve(folder, make_val_set(tmp_path / "val.npz"), output=tmp_path / "out")
    report = json.loads((made.folder / "report.json").read_text())
    assert plan.kind == report["kind"] == "curve"
    assert plan.methods == tuple(row["method"] for row in report["candidates"])
    assert plan.groups == {}
    assert plan.memory.needed_bytes == report["memory"]["parts"]["vectors"]
    with pytest.raises(ValueError, match="`method` must be 'auto' with `kind` curve"):
        inspect(folder, kind="curve", method="twa")


def test_parameters_are_counted_as_a_job_counts_them_without_statistics(tmp_path: Path) -> None:
    config = ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    model = ResNetForImageClassification(config)
    for step in (1, 2):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    plan = inspect(tmp_path).plan
    assert plan is not None
    assert plan.num_parameters == model.num_parameters() < sum(each.numel() for each in model.state_dict().values())


def test_the_answer_is_plain_json(folder: Path) -> None:
    (folder / "notes.h5").touch()
    told = inspect(folder).to_json()
    assert json.loads(json.dumps(told)) == json.loads(json.dumps(told, allow_nan=False))


def broken(folder: Path) -> None:
    (folder / "epoch-2.safetensors").write_bytes(b"no header" * 20)


def truncated(folder: Path) -> None:
    path = folder / "epoch-3.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def another_architecture(folder: Path) -> None:
    save_file({"weight": torch.ones(3)}, folder / "epoch-9.safetensors")


def mostly_another(folder: Path) -> None:
    for number in (1, 2):
        save_file({"weight": torch.full((3,), float(number))}, folder / f"epoch-{number}.safetensors")


def only_one(folder: Path) -> None:
    for number in (1, 2, 3):
        (folder / f"epoch-{number}.safetensors").unlink()


def copies(folder: Path) -> None:
    shutil.copy(folder / "epoch-4.safetensors", folder / "last.safetensors")
    os.link(folder / "epoch-1.safetensors", folder / "best.safetensors")


def all_the_same(folder: Path) -> None:
    for number in (1, 2, 3):
        shutil.copy(folder / "epoch-4.safetensors", folder / f"epoch-{number}.safetensors")


def nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def no_task(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def pickled(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        torch.save({"model": load_file(path), "optimizer": {"state": torch.ones(4)}}, path.with_suffix(".pt"))
        path.unlink()


def renamed_page(folder: Path) -> None:
    (folder / "epoch-5.pt").write_text("<!doctype html><html>404</html>")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "epoch-7.safetensors")


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    shutil.copy(folder / "epoch-1.safetensors", outside)
    (folder / "epoch-8.safetensors").symlink_to(outside)


def integers(folder: Path) -> None:
    save_file({"weight": torch.ones(3, dtype=torch.int32)}, folder / "epoch-1.safetensors")


def unchanged(folder: Path) -> None:
    pass


KINDS: tuple[Callable[[Path], None], ...] = (
    *(unchanged, broken, truncated, another_architecture, mostly_another, only_one, copies, all_the_same, nothing),
    *(no_task, broken_config, pickled, renamed_page, pipe, link_out, integers),
)


@pytest.mark.parametrize("change", KINDS, ids=lambda change: change.__name__)
def test_it_says_usable_where_average_would_begin_and_never_fails(change: Callable[[Path], None], folder: Path) -> None:
    change(folder)
    found = inspect(folder)
    refusal = None
    try:
        precheck(folder, make_val_set(folder.parent / "val.npz"), output=folder.parent / "out")
        check(discover(folder), lambda event: None)
    except EngineError as error:
        refusal = error.code
    assert found.usable is (refusal is None), (found.problems, refusal)
    # What is odd about one checkpoint may have other names where all are looked at together.
    if refusal is not None and change not in (another_architecture, integers):
        assert refusal in codes(found)


def test_a_bad_checkpoint_stands_last_with_its_reason_and_the_others_are_planned_with(folder: Path) -> None:
    broken(folder)
    found = inspect(folder)
    assert codes(found) == ["corrupt-checkpoint"]
    assert [each.usable for each in found.checkpoints] == [True, True, True, False]
    last = found.checkpoints[-1]
    assert last.problem is not None
    assert "epoch-2.safetensors" in last.problem.message
    assert found.plan is not None
    assert len(found.plan.checkpoints) == 3
    assert found.plan.model == "SmallCnn"


def test_one_that_no_filter_leaves_is_no_obstacle(folder: Path) -> None:
    broken(folder)
    found = inspect(folder, last=2)
    assert found.usable
    assert [each.name for each in found.checkpoints if each.taken] == ["epoch-3.safetensors", "epoch-4.safetensors"]
    assert not row(found, "epoch-2.safetensors")["usable"]


def test_of_two_architectures_the_common_one_is_planned_with_and_the_other_explained(folder: Path) -> None:
    another_architecture(folder)
    found = inspect(folder)
    assert codes(found) == ["mismatched-checkpoints"]
    assert "like=" in found.problems[0].message
    assert found.plan is not None
    assert len(found.plan.checkpoints) == 4
    odd = row(found, "epoch-9.safetensors")
    assert odd["architecture"] != row(found, "epoch-1.safetensors")["architecture"]
    assert "epoch-9.safetensors" in str(odd["problem"])
    assert inspect(folder, like="epoch-1.safetensors").usable


def test_copies_are_named_and_count_once(folder: Path) -> None:
    copies(folder)
    found = inspect(folder)
    assert found.usable
    assert row(found, "last.safetensors")["duplicate_of"] == "epoch-4.safetensors"
    assert row(found, "best.safetensors")["duplicate_of"] == "epoch-1.safetensors"
    assert row(found, "last.safetensors")["duplicate_is_certain"] is True
    assert found.plan is not None
    assert len(found.plan.checkpoints) == 4


def test_copies_under_names_with_a_prefix_are_found(folder: Path) -> None:
    state = load_file(folder / "epoch-4.safetensors")
    save_file({f"model.{name}": tensor for name, tensor in state.items()}, folder / "last.safetensors")
    assert row(inspect(folder), "last.safetensors")["duplicate_of"] == "epoch-4.safetensors"


def test_weights_are_not_read_and_a_copy_of_large_ones_is_a_maybe(tmp_path: Path) -> None:
    """Sparse files of 100 MB, all zeros but for a few numbers."""
    for number, marks in ((1, 0.5), (2, 0.7), (3, 0.7)):
        path = tmp_path / f"step-{number}.safetensors"
        sparse_file(path, numbers=25_000_000, value=marks)
    before = bytes_read()
    found = inspect(tmp_path)
    assert bytes_read() - before < 5_000_000
    assert row(found, "step-3.safetensors")["duplicate_of"] == "step-2.safetensors"
    assert row(found, "step-3.safetensors")["duplicate_is_certain"] is False
    assert any("only headers and samples" in warning.lower() for warning in found.warnings)
    assert found.plan is not None
    assert found.plan.num_parameters == 25_000_000


def sparse_file(path: Path, numbers: int, value: float) -> None:
    """One tensor, of which only the middle is not zero."""
    header = {"weight": {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 4 * numbers)
        file.seek(8 + len(text) + 2 * numbers - 400)
        file.write(torch.full((200,), value).numpy().tobytes())


def bytes_read() -> int:
    """By this process, in system calls."""
    return int(Path("/proc/self/io").read_text().split()[1])


class Canary:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.environ["CANARY"],)


def test_nothing_in_a_hostile_pickle_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = folder.parent / "canary"
    monkeypatch.setenv("CANARY", str(canary))
    (folder / "epoch-5.pt").write_bytes(pickle.dumps({"state_dict": Canary()}))
    (folder / "epoch-6.pt").write_bytes(b"\x80\x04" + b"(" * 100_000)
    found = inspect(folder)
    assert not canary.exists()
    assert not row(found, "epoch-6.pt")["usable"]
    assert len([each for each in found.checkpoints if each.usable]) == 4


def test_ten_thousand_files_are_no_obstacle(folder: Path) -> None:
    for number in range(10_000):
        (folder / f"log-{number}.txt").touch()
    found = inspect(folder)
    assert found.usable
    assert len(found.checkpoints) == 4


@pytest.mark.parametrize(
    ("name", "why"),
    [("absent", "does not exist"), ("run/epoch-1.safetensors", "is none. Give the folder that the checkpoints are in")],
)
def test_what_is_no_folder_is_said_to_be_none(name: str, why: str, folder: Path) -> None:
    found = inspect(folder.parent / name)
    assert not found.usable
    assert codes(found) == ["no-checkpoints"]
    assert f"must be a folder, but `{folder.parent / name}` {why}." in found.problems[0].message
    assert found.checkpoints == ()


def test_an_empty_folder_says_what_would_be_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "README.txt").touch()
    found = inspect(tmp_path)
    assert codes(found) == ["no-checkpoints"]
    assert "README.txt" in found.problems[0].message


def test_a_wrong_argument_raises(folder: Path) -> None:
    with pytest.raises(ValueError, match="`order`"):
        inspect(folder, order="tsep")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [({"task": "smal-cnn"}, "unknown-task"), ({"method": "twaa"}, "unknown-method"),
     ({"task_options": {"batchsize": 4}}, "invalid-task-options")],
)  # fmt: skip
def test_a_wish_that_cannot_be_met_is_a_problem(arguments: dict[str, object], code: str, folder: Path) -> None:
    found = inspect(folder, **arguments)  # type: ignore[arg-type]
    assert codes(found) == [code]
    assert len(found.checkpoints) == 4


def test_a_base_that_holds_a_checkpoints_weights_is_refused_where_weights_are_read(folder: Path) -> None:
    base = folder.parent / "copy.safetensors"
    shutil.copy(folder / "epoch-2.safetensors", base)
    assert inspect(folder, base=base).usable
    found = inspect(folder, base=base, forecast=True)
    assert codes(found) == ["identical-checkpoints"]
    assert "`base:copy.safetensors` holds the weights of `epoch-2.safetensors`" in found.problems[0].message


@pytest.mark.parametrize("inside", [True, False], ids=["in the folder", "elsewhere"])
def test_a_base_is_named_and_not_averaged_and_brings_its_methods(inside: bool, folder: Path) -> None:
    path = make_base((folder if inside else folder.parent) / "pretrained.safetensors", folder / "epoch-1.safetensors")
    found = inspect(folder, base=path.name if inside else path)
    assert found.usable, found.problems
    base, plan = found.base, found.plan
    assert base is not None
    assert plan is not None
    assert (base.fits, base.size_bytes, base.distances) == (True, path.stat().st_size, ())
    assert base.name == ("" if inside else "base:") + "pretrained.safetensors"
    assert len(plan.checkpoints) == 4
    assert {"model-stock", "wise-ft"} <= set(plan.methods)
    assert found.to_json()["base"]["fits"] is True
    assert row(found, "epoch-1.safetensors")["taken"] is True
    assert not inside or row(found, "pretrained.safetensors")["taken"] is False


@pytest.mark.parametrize("name", ["absent", "unlike.safetensors"])
def test_a_base_that_is_not_there_or_unlike_is_the_only_problem(name: str, folder: Path) -> None:
    save_file({"weight": torch.ones(3)}, folder / "unlike.safetensors")
    found = inspect(folder, base=name, exclude=None if name != "absent" else "unlike.*")
    assert codes(found) == ["no-checkpoints" if name == "absent" else "mismatched-checkpoints"]
    assert "base=" in found.problems[0].message
    assert found.base is not None
    assert (found.base.fits, found.base.problem) == (False, found.problems[0])
    assert found.plan is not None
    assert len(found.plan.checkpoints) == 4


def test_a_base_that_no_method_uses_is_a_problem_as_in_a_job(folder: Path) -> None:
    base = make_base(folder.parent / "base.safetensors", folder / "epoch-1.safetensors")
    assert codes(inspect(folder, base=base, method="uniform")) == ["invalid-method-options"]
    assert codes(inspect(folder, method="wise-ft")) == ["invalid-method-options"]


def test_a_model_that_does_not_take_the_weights_is_a_problem(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"width": 7}))
    found = inspect(folder)
    assert codes(found) == ["model-mismatch"]
    assert found.plan is not None
    assert found.plan.task == "small-cnn"


def test_a_trainers_step_and_metrics_are_said_to_come_from_it(tmp_path: Path) -> None:
    for step in (10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file({"w": torch.full((2,), float(step))}, tmp_path / f"checkpoint-{step}/model.safetensors")
        state = {
            "global_step": step,
            "log_history": [{"step": 10, "eval_loss": 0.1}, {"step": step, "eval_loss": 1 / step}],
            "best_model_checkpoint": "/elsewhere/checkpoint-10",
        }
        (tmp_path / f"checkpoint-{step}/trainer_state.json").write_text(json.dumps(state))
    rows = inspect(tmp_path).checkpoints
    assert [(each.step, each.step_from) for each in rows] == [(10, "trainer state"), (20, "trainer state")]
    assert [each.metrics["eval_loss"] for each in rows] == [0.1, 0.05]
    assert ["best" in " ".join(each.notes) for each in rows] == [True, False]


def test_adapters_of_different_ranks_are_one_architecture_with_the_model_of_their_base(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"run-1": {"r": 2}, "run-2": {"r": 4}})
    found = inspect(sweep, task="causal-lm", base_model=tmp_path / "base")
    assert [each.usable for each in found.checkpoints] == [True, True], found.checkpoints
    assert [each.architecture for each in found.checkpoints] == [1, 1]
    assert found.plan is not None
    assert found.plan.model == "GPT2LMHeadModel with adapters", found.problems
    assert len(found.plan.checkpoints) == 2
    by_factors = inspect(sweep, adapter_space="factors")
    assert "mismatched-checkpoints" in codes(by_factors)
    assert {each.architecture for each in by_factors.checkpoints} == {1, 2}


def test_an_adapter_of_other_layers_is_of_another_architecture_whatever_its_rank(tmp_path: Path) -> None:
    layers = {"r": 8, "target_modules": ["c_attn"]}
    sweep = make_sweep(tmp_path, {"run-1": {"r": 2}, "run-2": layers, "run-3": {"r": 4}})
    rows = {each.name: each.architecture for each in inspect(sweep, task="causal-lm").checkpoints}
    assert rows["run-1"] == rows["run-3"] != rows["run-2"]

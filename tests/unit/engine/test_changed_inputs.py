"""A job is about the bytes that it judged: what changes while it runs, or before its next attempt, gives no result."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ladle_engine import EngineError, average, candidate_state, combine_checkpoints, rebuild, resume_state
from ladle_engine.progress import ProgressEvent, StageStarted, StepDone, Warned
from ladle_engine.resume_state import ResumeState
from ladle_engine.storage.input_file import Identity
from ladle_engine.storage.inputs import Inputs
from tests.builders import make_checkpoints, make_val_set
from tests.unit.engine.toy import Interrupted, ToyTask, plain_net, write_checkpoints

OPTIONS: dict[str, Any] = {"method": "twa", "method_options": {"steps": 4}}


def written_again(path: Path) -> None:
    """Other bytes of the same length, in place, and the old time of the last change."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-16, os.SEEK_END)
        file.write(bytes(16))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy(path, other)
    written_again(other)
    other.replace(path)


def shortened(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def removed(path: Path) -> None:
    path.unlink()


CHANGES = {"written": written_again, "replaced": replaced, "shortened": shortened, "removed": removed}


def at(stage: str, act: Callable[[], None]) -> Callable[[ProgressEvent], None]:
    """Acts once, when the stage begins."""
    acted = []

    def listen(event: ProgressEvent) -> None:
        if isinstance(event, StageStarted) and event.stage == stage and not acted:
            acted.append(stage)
            act()

    return listen


@contextmanager
def refused(path: Path, output: Path) -> Iterator[None]:
    with pytest.raises(EngineError) as caught:
        yield
    assert caught.value.code == "inputs-changed", caught.value
    assert f"`{path}`" in caught.value.message
    assert not output.exists()
    assert not list(output.parent.glob(".*.tmp"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_checkpoints(tmp_path / "checkpoints")
    make_val_set(tmp_path / "val.npz")
    return tmp_path


def run(folder: Path, **options: Any) -> Any:
    return average(folder / "checkpoints", folder / "val.npz", output=folder / "out", **{**OPTIONS, **options})


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("stage", ["check", "evaluate", "train", "write", "verify"])
def test_a_checkpoint_that_changes_at_any_stage_gives_no_result(folder: Path, stage: str, change: str) -> None:
    path = folder / "checkpoints" / "epoch-2.safetensors"
    with refused(path, folder / "out"):
        run(folder, progress=at(stage, lambda: CHANGES[change](path)))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["checkpoints/config.json", "val.npz", "train.npz"])
def test_config_and_data_that_change_give_no_result_either(folder: Path, name: str, change: str) -> None:
    make_val_set(folder / "train.npz", count=300, start=0)
    with refused(folder / name, folder / "out"):
        run(folder, train_set=folder / "train.npz", progress=at("train", lambda: CHANGES[change](folder / name)))


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_of_the_validation_set_that_changes_gives_no_result(tmp_path: Path, change: str) -> None:
    make_checkpoints(tmp_path / "checkpoints")
    generator = torch.Generator().manual_seed(0)
    for number in range(60):
        path = tmp_path / "val" / str(number % 10) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(torch.randint(256, (8, 8), dtype=torch.uint8, generator=generator).numpy()).save(path)
    options: dict[str, Any] = {"method": "uniform", "task_options": {"batch_size": 10}}
    with refused(path, tmp_path / "out"):
        average(
            tmp_path / "checkpoints", tmp_path / "val", output=tmp_path / "out", **options,
            progress=at("evaluate", lambda: CHANGES[change](path)),
        )  # fmt: skip
    if change == "removed":
        return
    average(tmp_path / "checkpoints", tmp_path / "val", output=tmp_path / "out", **options)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["inputs"]["data"]["val_set"]["files"] == 60


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_in_a_folder_to_which_a_link_leads_is_an_input_too(tmp_path: Path, change: str) -> None:
    path = tmp_path / "data" / "elsewhere" / "1.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"an image of some length")
    (tmp_path / "data" / "class").symlink_to("elsewhere")
    (tmp_path / "data" / "elsewhere" / "again").symlink_to("../class")
    (tmp_path / "data" / "out").symlink_to(tmp_path)
    inputs = Inputs()
    inputs.add_folder(tmp_path / "data")
    assert inputs.files_in(tmp_path / "data") == 1
    inputs.refuse_changed()
    CHANGES[change](path)
    with pytest.raises(EngineError, match=r"1\.png"):
        inputs.refuse_changed()


def test_a_config_that_changes_between_its_reading_and_its_digest_gives_no_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The name of the module is also that of the function.
    module = importlib.import_module("ladle_engine.checkpoints.discover")
    original = module.read_config

    def read_then_written_again(*places: Path) -> Any:
        config = original(*places)
        written_again(folder / "checkpoints" / "config.json")
        return config

    monkeypatch.setattr(module, "read_config", read_then_written_again)
    with refused(folder / "checkpoints" / "config.json", folder / "out"):
        run(folder)


def test_what_the_digest_alone_can_tell_is_refused_when_the_result_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that keeps no times."""
    monkeypatch.setattr(Identity, "of", classmethod(lambda cls, status: cls(0, 0, status.st_size, 0, 0)))
    given: dict[str, Any] = {"method": "given", "method_options": {"coefficients": [0.0, 0.3, 0.3, 0.4]}}
    first = run(folder, **given)
    path = folder / "checkpoints" / (first.best_checkpoint if first.method == "best" else "epoch-2.safetensors")
    shutil.rmtree(folder / "out")
    with refused(path, folder / "out"):
        run(folder, **given, progress=at("write", lambda: written_again(path)))


def test_files_that_are_touched_or_copied_or_new_do_not_matter(folder: Path) -> None:
    def touch() -> None:
        for path in (*(folder / "checkpoints").iterdir(), folder / "val.npz"):
            path.touch()
            path.chmod(0o640)
            os.link(path, folder / f"link-{path.name}")
        path = folder / "checkpoints" / "epoch-2.safetensors"
        shutil.copy(path, folder / "copy")
        (folder / "copy").replace(path)
        save_file({"other": torch.ones(2)}, folder / "checkpoints" / "epoch-9.safetensors")

    run(folder, progress=at("train", touch))
    report = json.loads((folder / "out" / "report.json").read_text())
    assert len(report["checkpoints"]) == 4


def test_the_result_carries_the_digests_of_all_that_was_read(folder: Path) -> None:
    run(folder)
    report, saved = (json.loads((folder / "out" / name).read_text()) for name in ("report.json", "coefficients.json"))

    def sha256(name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()

    for checkpoint in report["checkpoints"]:
        name = checkpoint["name"]
        assert checkpoint["files"] == saved["sha256"][name] == {name: sha256(f"checkpoints/{name}")}
    assert report["inputs"] == saved["inputs"]
    assert report["inputs"]["side_files"] == {"config.json": sha256("checkpoints/config.json")}
    assert report["inputs"]["data"] == {"val_set": {"sha256": sha256("val.npz")}}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["step-1.safetensors", "step-3.safetensors", "config.json"])
def test_combining_refuses_what_changes_meanwhile(tmp_path: Path, name: str, change: str) -> None:
    """Once the first tensor is written, so that the result would be made of old and of new ones."""
    write_checkpoints(tmp_path / "in", plain_net)
    (tmp_path / "in" / "config.json").write_text(json.dumps({"a": 1, "b": "something longer than a few bytes"}))
    changed = []

    def listen(event: ProgressEvent) -> None:
        if isinstance(event, StepDone) and event.stage == "write" and not changed:
            changed.append(event.step)
            CHANGES[change](tmp_path / "in" / name)

    with refused(tmp_path / "in" / name, tmp_path / "out"):
        combine_checkpoints(tmp_path / "in", output=tmp_path / "out", progress=listen)
    assert changed == [1]


@pytest.mark.parametrize("change", CHANGES)
def test_rebuilding_refuses_what_changes_meanwhile(folder: Path, change: str) -> None:
    run(folder)
    path = folder / "checkpoints" / "epoch-2.safetensors"
    with pytest.raises(EngineError, match=f"`{path}`") as caught:
        rebuild(
            folder / "out", folder / "checkpoints", output=folder / "again", candidate="twa",
            progress=at("verify", lambda: CHANGES[change](path)),
        )  # fmt: skip
    assert caught.value.code == "inputs-changed"
    assert not (folder / "again").exists()


class Dies:
    """Ends an attempt right after a state of this name is saved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
        save = ResumeState.save

        def and_die(state: ResumeState, saved: str, value: Any) -> None:
            save(state, saved, value)
            if saved == key:
                raise Interrupted

        monkeypatch.setattr(ResumeState, "save", and_die)


def died(folder: Path, monkeypatch: pytest.MonkeyPatch, key: str = "choice-best") -> None:
    """An attempt that ended in the middle."""
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        Dies(patched, key)
        run(folder, state_dir=folder / "state")


def added(path: Path) -> None:
    state = load_file(path.with_name("epoch-1.safetensors"))
    save_file({name: tensor + 0.01 for name, tensor in state.items()}, path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("epoch-2.safetensors", removed, "is gone"),
        ("epoch-2.safetensors", written_again, "has changed"),
        ("epoch-5.safetensors", added, "was not there before"),
        ("config.json", lambda path: path.write_text(path.read_text() + " "), "has changed"),
        ("../val.npz", lambda path: make_val_set(path, start=701), "has changed"),
    ],
)
def test_the_next_attempt_must_have_the_same_files_until_another_state_begins(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Path], Any], words: str
) -> None:
    died(folder, monkeypatch)
    change(folder / "checkpoints" / name)
    for _ in range(2):
        with pytest.raises(EngineError, match=f"{Path(name).name}` {words}") as caught:
            run(folder, state_dir=folder / "state")
        assert caught.value.code == "inputs-changed"
        assert "give another `state_dir`" in caught.value.message
        assert not (folder / "out").exists()
    run(folder, state_dir=folder / "other state")


def test_an_attempt_that_died_before_anything_was_read_is_remembered_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(Inputs, "know", interrupted)
        run(folder, state_dir=folder / "state")
    (folder / "checkpoints" / "epoch-2.safetensors").unlink()
    with pytest.raises(EngineError, match=r"epoch-2\.safetensors` is gone"):
        run(folder, state_dir=folder / "state")


def interrupted(*arguments: object) -> None:
    raise Interrupted


def test_an_attempt_with_the_same_files_goes_on_though_their_times_are_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died(folder, monkeypatch)
    for path in (*(folder / "checkpoints").iterdir(), folder / "val.npz"):
        path.touch()
    stages: list[tuple[str, str | None]] = []

    def listen(event: ProgressEvent) -> None:
        if isinstance(event, StageStarted):
            stages.append((event.stage, event.method))

    run(folder, state_dir=folder / "state", progress=listen)
    assert ("evaluate", "best") not in stages, "what was saved is used"


def test_a_job_that_ended_may_be_followed_by_one_with_other_files(folder: Path) -> None:
    run(folder, state_dir=folder / "state")
    shutil.move(folder / "out", folder / "first")
    added(folder / "checkpoints" / "epoch-5.safetensors")
    assert run(folder, state_dir=folder / "state").num_checkpoints == 5
    shutil.rmtree(folder / "out")
    path = folder / "checkpoints" / "epoch-5.safetensors"
    written_again(path)
    run(folder, state_dir=folder / "state")
    saved = json.loads((folder / "out" / "coefficients.json").read_text())
    assert saved["sha256"][path.name] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_job_that_ended_by_the_users_mistake_may_be_mended(folder: Path) -> None:
    broken = folder / "checkpoints" / "epoch-5.safetensors"
    state = load_file(folder / "checkpoints" / "epoch-1.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in state.items()}, broken)
    with pytest.raises(EngineError, match="epoch-5") as caught:
        run(folder, state_dir=folder / "state")
    assert caught.value.code == "non-finite-weights"
    broken.unlink()
    assert run(folder, state_dir=folder / "state").num_checkpoints == 4


def damage(path: Path, how: str, other: Path) -> None:
    """Something else in the place of a file; `other` is another file of the kind."""
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.unlink()
    if how == "a folder":
        (path / "inside").mkdir(parents=True)
    elif how == "a pipe":
        os.mkfifo(path)
    elif how == "a link to nothing":
        path.symlink_to(path.parent / "nothing")
    elif how == "a link to itself":
        path.symlink_to(path)
    else:
        path.write_bytes(
            {
                "cut": content[:middle],
                "a bit": flipped,
                "empty": b"",
                "something else": b"PK\x03\x04",
                "another state": other.read_bytes(),
                "an older seal": hashlib.sha256(content[32:]).digest() + content[32:],
            }[how]
        )


DAMAGE = (
    *("cut", "a bit", "empty", "something else", "another state", "an older seal"),
    *("a folder", "a pipe", "a link to nothing", "a link to itself"),
)


@pytest.mark.parametrize("how", ["cut", "another state", "a folder"])
@pytest.mark.parametrize("pattern", ["*.pt", "inputs"])
def test_a_damaged_state_is_left_out_with_a_word_and_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, how: str
) -> None:
    write_checkpoints(tmp_path / "in", plain_net)

    def averaged(name: str, **options: Any) -> list[str]:
        outcome = average(
            tmp_path / "in", tmp_path / "in", output=tmp_path / name, task=ToyTask(plain_net), **OPTIONS, **options
        )
        return list(outcome.warnings)

    averaged("whole")
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(ResumeState, "is_due", lambda state: True)
        Dies(patched, "choice-twa")
        averaged("died", state_dir=tmp_path / "state")
    saved = {path.stem: path for path in (tmp_path / "state").rglob("*")}
    assert set(saved) >= {"inputs", "choice-best", "choice-twa", "train-twa", "evaluations"}
    other = tmp_path / "other"
    other.write_bytes(saved["choice-best"].read_bytes())
    damaged = [path for path in (tmp_path / "state").rglob(pattern) if path.stem != "choice-best"]
    for path in damaged:
        damage(path, how, other)
    warnings = averaged("again", state_dir=tmp_path / "state")
    told = sum("is damaged" in warning for warning in warnings)
    assert told == 1 if pattern == "inputs" else told >= 2
    one, other_state = (candidate_state(tmp_path / name, tmp_path / "in", "twa") for name in ("whole", "again"))
    assert all(torch.equal(one[name], other_state[name]) for name in one)


@pytest.mark.parametrize("how", DAMAGE)
def test_whatever_stands_in_the_place_of_a_state_it_is_said_once_and_made_anew(tmp_path: Path, how: str) -> None:
    state = ResumeState(tmp_path, "job", on_event=(told := []).append)
    state.save("one", {"value": 1})
    state.save("two", {"value": 2})
    damage(tmp_path / "job" / "one.pt", how, tmp_path / "job" / "two.pt")
    assert state.load("one") is None
    assert [type(event) for event in told] == [Warned]
    assert state.load("one") is None
    assert len(told) == 1, "it is said once"
    state.save("one", {"value": 3})
    assert state.load("one") == {"value": 3}
    assert state.load("two") == {"value": 2}


def test_a_state_that_is_cut_at_any_byte_is_not_used(tmp_path: Path) -> None:
    state = ResumeState(tmp_path, "job")
    state.write("one.pt", b"twenty bytes, or so.")
    whole = (tmp_path / "job" / "one.pt").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "job" / "one.pt").write_bytes(whole[:length])
        assert state.read("one.pt") is None
    (tmp_path / "job" / "one.pt").write_bytes(whole)
    assert state.read("one.pt") == b"twenty bytes, or so."


def test_the_state_of_another_job_or_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ResumeState(tmp_path, "one").save("key", {"value": 1})
    other = ResumeState(tmp_path, "other")
    (tmp_path / "one" / "key.pt").rename(tmp_path / "other" / "key.pt")
    assert other.load("key") is None
    other.save("key", {"value": 2})
    monkeypatch.setattr(resume_state, "FORMAT", resume_state.FORMAT + 1)
    assert other.load("key") is None


def test_a_file_in_the_place_of_the_states_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "job").write_text("something")
    state = ResumeState(tmp_path, "job", on_event=(told := []).append)
    state.save("key", {"value": 1})
    assert state.load("key") == {"value": 1}
    assert [type(event) for event in told] == [Warned]

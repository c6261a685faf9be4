"""What a rank opens lies in the roots, whatever somebody exchanges for a link and whenever."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ladle_contracts.roots import Roots
from ladle_engine import EngineError, average, discover
from ladle_engine.progress import ProgressEvent, StageStarted
from ladle_engine.storage import boundary
from ladle_worker.boundary import InsideRoots, confine_reading
from tests.builders import CONFIG, digits, make_base, make_val_set, trained_states
from tests.polling import DEADLINE_S

SECRET = "a secret of somebody else"


def write_data(root: Path, secret: str | None = None) -> None:
    """Checkpoints of all layouts, side files, and data sets of both kinds; the `secret` stands in all that is text."""
    for number, state in enumerate(trained_states(4, False, 1 if secret else 0, 4), start=1):
        home = root / "run" / f"checkpoint-{number}"
        home.mkdir(parents=True)
        if number == 4:
            save_file(state, home / "model.safetensors")
            continue
        weight_map = {name: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, name in enumerate(state)}
        for file in set(weight_map.values()):
            save_file({name: each for name, each in state.items() if weight_map[name] == file}, home / file)
        (home / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {"ladle_task": "small-cnn", **CONFIG, "width": 4, "batch_norm": False, "said": secret}
    (root / "run" / "config.json").write_text(json.dumps(config))
    (root / "run" / "tokenizer.json").write_text(json.dumps({"said": secret}))
    make_val_set(root / "val.npz", count=60, start=900 if secret else 700)
    make_val_set(root / "train.npz", count=60, start=100 if secret else 0)
    images, labels = digits()
    for number in range(60):
        path = root / "images" / str(int(labels[number])) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((images[number, 0] * 255).to(torch.uint8).numpy()).save(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_data(folder / "root")
    write_data(folder / "outside", SECRET)
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The real paths of all that the boundary opened."""
    paths: list[Path] = []

    def recorded(self: InsideRoots, path: Path, flags: int) -> int:
        descriptor = original(self, path, flags)
        paths.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        return descriptor

    original = InsideRoots.open
    monkeypatch.setattr(InsideRoots, "open", recorded)
    before = boundary.install(boundary.WholeFileSystem())
    yield paths
    boundary.install(before)


@pytest.fixture
def folder(tmp_path: Path, written: Path, opened: list[Path]) -> Path:
    """`root`, inside of which this process may read from now on, and `outside`, which looks just the same."""
    for name in ("root", "outside"):
        shutil.copytree(written / name, tmp_path / name)
    (tmp_path / "away").mkdir()
    confine_reading([str(tmp_path / "root")])
    return tmp_path


def run(folder: Path, **changes: Any) -> Any:
    arguments = {"ckpt_dir": folder / "root/run", "val_set": folder / "root/val.npz", "method": "twa"} | changes
    return average(**arguments, output=folder / "out", method_options={"steps": 2})


def exchange(folder: Path, place: str) -> None:
    """A path in the root becomes a link to its twin outside."""
    path = folder / "root" / place
    path.rename(folder / "away" / path.name)
    path.symlink_to(folder / "outside" / place)


def at(stage: str, act: Callable[[], None]) -> Callable[[ProgressEvent], None]:
    """Acts once, when the stage begins."""
    acted: list[str] = []

    def listen(event: ProgressEvent) -> None:
        if isinstance(event, StageStarted) and event.stage == stage and not acted:
            acted.append(stage)
            act()

    return listen


def assert_nothing_leaked(folder: Path, opened: list[Path]) -> None:
    allowed = (folder / "root", folder / "away")

    assert not [path for path in opened if not any(path.is_relative_to(each) for each in allowed)]
    for path in (folder / "out").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


IMAGE = f"images/{int(digits()[1][3])}/3.png"
STAGES = ("discover", "check", "evaluate", "train", "write", "verify")
WEIGHTS = (
    "run",
    "run/checkpoint-2",
    "run/checkpoint-4/model.safetensors",
    "run/checkpoint-2/model-00001-of-00002.safetensors",
    "run/checkpoint-2/model.safetensors.index.json",
    "run/config.json",
)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("place", [*WEIGHTS, "run/tokenizer.json", "val.npz", "train.npz"])
def test_what_becomes_a_link_out_of_the_roots_is_never_read(
    folder: Path, opened: list[Path], place: str, stage: str
) -> None:
    outcome = error = None
    try:
        outcome = run(folder, train_set=folder / "root/train.npz", progress=at(stage, lambda: exchange(folder, place)))
    except EngineError as raised:
        error = raised
    assert_nothing_leaked(folder, opened)
    left_behind = place == "run/tokenizer.json" and stage == "discover"
    index = place.endswith("index.json") and stage != "discover"
    if left_behind:
        assert error is None, error
        assert outcome is not None
        assert any("`tokenizer.json` (a link that leads out)" in warning for warning in outcome.warnings)
    elif not index:
        assert error is not None
        assert error.code in ("path-not-allowed", "inputs-changed")
        assert (error.code == "path-not-allowed") == (stage == "discover"), error
        assert SECRET not in error.message


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("place", ["images", "images/3", IMAGE])
def test_images_that_become_links_out_of_the_roots_are_never_read(
    folder: Path, opened: list[Path], place: str, stage: str
) -> None:
    with pytest.raises(EngineError) as caught:
        run(folder, val_set=folder / "root/images", progress=at(stage, lambda: exchange(folder, place)))
    assert_nothing_leaked(folder, opened)
    assert caught.value.code == ("path-not-allowed" if stage == "discover" else "inputs-changed"), caught.value


def test_links_inside_the_roots_stay_usable(tmp_path: Path, written: Path, opened: list[Path]) -> None:
    """Relative and absolute ones, links to links, from one root into another, and a root that is a link itself."""
    for name in ("one", "two"):
        shutil.copytree(written / "root", tmp_path / name)
    (tmp_path / "root").symlink_to(tmp_path / "one")
    (tmp_path / "root/latest").symlink_to("run")
    (tmp_path / "root/to-the-other").symlink_to(tmp_path / "two")
    (tmp_path / "root/val-set.npz").symlink_to("to-the-other/val.npz")
    (tmp_path / "root/run/checkpoint-9").symlink_to("checkpoint-1")
    (tmp_path / "root/run/vocab.json").symlink_to(tmp_path / "one/run/tokenizer.json")
    confine_reading([str(tmp_path / "root"), str(tmp_path / "two")])
    outcome = average(
        tmp_path / "root/latest", tmp_path / "root/val-set.npz", train_set=tmp_path / "root/to-the-other/train.npz",
        output=tmp_path / "out", method="uniform",
    )  # fmt: skip
    assert outcome.num_checkpoints == 4
    assert any("checkpoint-9" in warning for warning in outcome.warnings), "the same weights count once"
    assert (tmp_path / "out/vocab.json").read_bytes() == (tmp_path / "one/run/tokenizer.json").read_bytes()
    assert {path.parts[len(tmp_path.parts)] for path in opened} == {"one", "two"}


def test_shards_that_an_index_names_outside_are_not_read(folder: Path, opened: list[Path]) -> None:
    for name in ("../../../outside/run/checkpoint-4/model.safetensors", str(folder / "outside/val.npz"), ".."):
        index = folder / "root/run/checkpoint-2/model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(EngineError, match="must name shards beside it"):
            run(folder)
    assert_nothing_leaked(folder, opened)


@pytest.mark.parametrize("place", ["val.npz", "run/checkpoint-2", *WEIGHTS[2:], "run/tokenizer.json", IMAGE])
@pytest.mark.parametrize("kind", ["pipe", "link to a device"])
def test_a_pipe_or_a_device_in_any_place_ends_or_is_passed_over_and_never_blocks(
    folder: Path, opened: list[Path], place: str, kind: str
) -> None:
    path = folder / "root" / place
    path.rename(folder / "away" / path.name)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    refusal = None
    try:
        run(folder, val_set=folder / "root" / ("images" if "images" in place else "val.npz"))
    except EngineError as error:
        refusal = error.code
    assert refusal in (None, "path-not-allowed", "invalid-data", "unknown-task")
    assert_nothing_leaked(folder, opened)


def test_a_worker_on_a_kernel_without_openat2_says_so_once(tmp_path: Path) -> None:
    program = (
        "import ladle_worker.__main__ as worker\n"
        "def stop(): raise worker.CannotDescribe('far enough')\n"
        "worker.has_openat2, worker.describe = (lambda: False), stop\n"
        "worker.main()"
    )
    environment = {**os.environ, "LADLE_ROOTS": str(tmp_path), "LADLE_RESULTS_DIR": str(tmp_path / "results")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    assert done.stderr.count("openat2") == 1
    assert "folder by folder" in done.stderr


def test_a_hard_link_is_a_file_like_any_other(folder: Path, opened: list[Path]) -> None:
    (folder / "root/run/checkpoint-4/model.safetensors").unlink()
    os.link(folder / "outside/run/checkpoint-4/model.safetensors", folder / "root/run/checkpoint-4/model.safetensors")
    assert run(folder).num_checkpoints == 4
    assert_nothing_leaked(folder, opened)


def test_the_boundary_holds_for_roots_that_are_held_by_somebody_else(folder: Path) -> None:
    inside = InsideRoots(Roots([folder / "root"]))
    with pytest.raises(EngineError, match="must be inside the allowed folders") as caught:
        inside.open(folder / "outside" / "val.npz", os.O_RDONLY)
    assert caught.value.code == "path-not-allowed"
    with pytest.raises(EngineError):
        inside.status(folder / "outside" / "missing")
    with pytest.raises(FileNotFoundError):
        inside.status(folder / "root" / "missing")


def test_several_folders_are_read_inside_the_roots_and_a_glob_sees_nothing_outside(
    tmp_path: Path, written: Path, opened: list[Path]
) -> None:
    for name in ("one", "other", "outside"):
        shutil.copytree(written / "root", tmp_path / name)
    shutil.copytree(written / "outside" / "run", tmp_path / "outside" / "other-run")
    confine_reading([str(tmp_path / "one"), str(tmp_path / "other")])
    # The folder that holds both is in no root.
    found = discover([tmp_path / "one" / "r*", tmp_path / "other" / "run"])
    assert {name.partition("/")[0] for name in found.names} <= {"one", "other"}
    (tmp_path / "one" / "away").symlink_to(tmp_path / "outside")
    for outside in (tmp_path / "*" / "run", tmp_path / "one" / "*" / "other-run", tmp_path / "outside" / "*"):
        with pytest.raises(EngineError) as caught:
            discover([tmp_path / "one" / "run", outside])
        assert caught.value.code in ("path-not-allowed", "no-checkpoints")
    assert all(path.is_relative_to(tmp_path / "one") or path.is_relative_to(tmp_path / "other") for path in opened)


def test_a_base_may_be_a_root_itself_and_what_lies_beside_it_is_not_looked_at(folder: Path) -> None:
    root = folder / "root"
    base = make_base(root / "base.safetensors", root / "run" / "checkpoint-4" / "model.safetensors")
    confine_reading([str(root / "run"), str(root / "val.npz"), str(base)])
    outcome = average(
        root / "run",
        root / "val.npz",
        base=base,
        output=folder / "out",
        method="wise-ft",
        method_options={"share": 0.5},
    )
    assert {score.method for score in outcome.candidates} == {"best", "wise-ft"}

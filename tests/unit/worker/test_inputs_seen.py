"""What the nodes of a job see of its inputs, and how they are told where that differs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ladle_contracts import CheckpointFilter, JobSpec
from ladle_contracts.roots import Roots
from ladle_worker.inputs_difference import difference
from ladle_worker.inputs_look import far_seen
from ladle_worker.inputs_seen import seen


def spec(**values: Any) -> JobSpec:
    return JobSpec(ckpt_dir="/data/run", val_set="/data/val", **values)


@pytest.fixture
def disks(tmp_path: Path) -> tuple[Path, Path]:
    """Of two nodes, each with a copy of the data."""
    first = tmp_path / "a"
    for name in ("checkpoint-1", "checkpoint-2", "checkpoint-3"):
        folder = first / "run" / name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(name.encode() * 9_000)
        (folder / "config.json").write_text("{}")
        (folder / "optimizer.pt").write_bytes(b"o" * 100)
    (first / "val").mkdir()
    for number in range(5):
        (first / "val" / f"{number}.png").write_bytes(bytes(number + 1))
    shutil.copytree(first, tmp_path / "b")
    return first, tmp_path / "b"


def told(disks: tuple[Path, Path], asked: JobSpec) -> str | None:
    views = {}
    for node, disk in zip("ab", disks, strict=True):
        with Roots([disk]) as roots:
            views[node] = {
                "ckpt_dir": seen(disk / "run", roots, weights=True),
                "val_set": seen(disk / "val", roots, weights=False),
            }
    # As it comes from a process, and through Redis.
    return difference(json.loads(json.dumps(views)), asked)


def test_copies_are_the_same_whatever_else_a_training_left_beside_them(disks: tuple[Path, Path]) -> None:
    (disks[1] / "run/checkpoint-2/optimizer.pt").unlink()
    (disks[1] / "run/checkpoint-2/trainer_state.json").write_text("{}")
    (disks[0] / "run/.git").mkdir()
    os.utime(disks[1] / "run/checkpoint-1/model.safetensors", (1, 1))
    assert told(disks, spec()) is None


def cut(disk: Path) -> None:
    (disk / "run/checkpoint-2/model.safetensors").write_bytes(b"x")


def change(disk: Path) -> None:
    path = disk / "run/checkpoint-2/model.safetensors"
    path.write_bytes(b"C" + path.read_bytes()[1:])


def remove(disk: Path) -> None:
    shutil.rmtree(disk / "run/checkpoint-2")


def unmount(disk: Path) -> None:
    shutil.rmtree(disk / "run")
    (disk / "run").mkdir()


def change_data(disk: Path) -> None:
    (disk / "val/3.png").write_bytes(b"another")


def lock(disk: Path) -> None:
    path = disk / "run/checkpoint-2/model.safetensors"
    path.unlink()
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            cut,
            "`checkpoint-2` of `/data/run` has 2 files of 108,002 bytes on node `a` and 2 files of 3 bytes on node `b`",
        ),
        (change, "`checkpoint-2` of `/data/run` holds other bytes on node `a` than on node `b`"),
        (remove, "`checkpoint-2` of `/data/run` is on node `a` and not on node `b`"),
        (unmount, "node `a` sees 6 files in `/data/run` and node `b` sees none"),
        (change_data, "`3.png` of `/data/val` has 4 bytes on node `a` and 7 bytes on node `b`"),
        (lock, "`checkpoint-2` of `/data/run` has 2 files"),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_what_differs_is_named_with_both_nodes(
    which: int, fault: Callable[[Path], None], words: str, disks: tuple[Path, Path]
) -> None:
    fault(disks[which])
    message = told(disks if which else (disks[1], disks[0]), spec())
    assert message is not None
    if which:
        assert words in message
    assert "node `a`" in message
    assert "node `b`" in message


def test_where_options_choose_among_the_checkpoints_only_the_ranks_can_tell(disks: tuple[Path, Path]) -> None:
    remove(disks[1])
    narrowed = spec(checkpoints=CheckpointFilter(exclude=("checkpoint-2",)))
    assert told(disks, narrowed) is None
    unmount(disks[1])
    assert "sees none" in (told(disks, narrowed) or "")


def test_a_glob_and_a_single_file_are_seen_like_a_folder(disks: tuple[Path, Path]) -> None:
    with Roots([disks[0]]) as roots:
        matched = seen(disks[0] / "run/checkpoint-[12]", roots, weights=True)
        alone = seen(disks[0] / "run/checkpoint-1/model.safetensors", roots, weights=True)
        gone = seen(disks[0] / "nothing", roots, weights=True)
    assert (matched["files"], list(matched["parts"])) == (4, ["checkpoint-1", "checkpoint-2"])
    assert (alone["files"], list(alone["parts"])) == (1, ["model.safetensors"])
    assert (gone["files"], gone["parts"]) == (0, {})


def test_links_in_a_circle_end(disks: tuple[Path, Path]) -> None:
    (disks[0] / "run/checkpoint-1/again").symlink_to("..")
    with Roots([disks[0]]) as roots:
        assert seen(disks[0] / "run", roots, weights=True)["files"] == 6


def test_versions_of_far_files_are_compared() -> None:
    one, other = {"s3://b/run/a.bin": "etag-1", "s3://b/run/b.bin": "etag-2"}, {"s3://b/run/a.bin": "etag-1"}
    views = {"a": {"far": far_seen(one)}, "b": {"far": far_seen(one | {"s3://b/run/b.bin": "etag-3"})}}
    assert "`s3://b/run/b.bin` of the far files holds other bytes on node `a`" in (difference(views, spec()) or "")
    views["b"] = {"far": far_seen(other)}
    assert "is on node `a` and not on node `b`" in (difference(views, spec()) or "")


def test_a_node_that_could_not_look_leaves_it_to_the_ranks(disks: tuple[Path, Path]) -> None:
    with Roots([disks[0]]) as roots:
        view = {"ckpt_dir": seen(disks[0] / "run", roots, weights=True)}
    assert difference({"a": view, "b": {}}, spec()) is None
    assert difference({"a": {}, "b": view}, spec()) is None
    assert difference({"a": {}, "b": {}}, spec()) is None


def test_the_process_that_looks_imports_no_torch_and_answers_in_one_line(disks: tuple[Path, Path]) -> None:
    inputs = [{"field": "ckpt_dir", "path": str(disks[0] / "run"), "weights": True}]
    code = "import sys, ladle_worker.inputs_seen as it; it.main(); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps({"roots": [str(disks[0])], "inputs": inputs}) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["ckpt_dir"]["files"] == 6

"""Pipes, sockets and devices among a job's files: refused or passed over at once, and never waited for."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ladle_engine import EngineError, combine_checkpoints, discover
from ladle_engine.errors import CheckpointError
from ladle_engine.storage import boundary
from ladle_engine.storage.input_file import InputFile
from ladle_engine.storage.input_paths import entries_of, open_binary, read_bytes
from tests.unit.engine.toy import plain_net, write_checkpoints


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    # The path of a socket is short.
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)
    os.chdir(here)


def link_to_pipe(path: Path) -> None:
    os.mkfifo(path.parent / ".hidden")
    path.symlink_to(".hidden")


def endless(path: Path) -> None:
    """A chain of links, too long for the kernel and for Python."""
    names = [path.name, *(f".{path.name}-{number}" for number in range(sys.getrecursionlimit() + 100))]
    for name, target in itertools.pairwise(names):
        (path.parent / name).symlink_to(target)


KINDS: dict[str, Callable[[Path], None]] = {"pipe": pipe, "socket": unix_socket, "link to a pipe": link_to_pipe}
LINKS = {"chain of links": endless, "link to itself": lambda path: path.symlink_to(path.name)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (1, 2, 3):
        home = tmp_path / "in" / f"checkpoint-{step}"
        home.mkdir(parents=True)
        save_file({"w": torch.full((2,), float(step))}, home / "model.safetensors")
    return tmp_path / "in"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "modules.json", "tokenizer.json", "preprocessor_config.json", "trainer_state.json", "vocab"),
        *("epoch-1.safetensors", "epoch-1.pt", "epoch-1.pth.tar", "model.safetensors.index.json", "epoch-1", "2_Dense"),
    ],
)
@pytest.mark.parametrize("place", [".", "checkpoint-3"])
def test_beside_good_checkpoints_they_are_passed_over(
    folder: Path, tmp_path: Path, place: str, name: str, kind: str
) -> None:
    KINDS[kind](folder / place / name)
    output = combine_checkpoints(folder, output=tmp_path / "out")
    assert [path.name for path in output.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00002.safetensors"])
def test_a_checkpoint_that_is_one_is_passed_over_and_said(folder: Path, name: str, kind: str) -> None:
    home = folder / "checkpoint-3"
    (home / "model.safetensors").unlink()
    if "-of-" in name:
        index = {"weight_map": {"w": name, "b": "model-00002-of-00002.safetensors"}}
        (home / "model.safetensors.index.json").write_text(json.dumps(index))
        save_file({"b": torch.ones(2)}, home / "model-00002-of-00002.safetensors")
    KINDS[kind](home / name)
    found = discover(folder)
    assert found.names == ("checkpoint-1", "checkpoint-2")
    assert any("not a regular file" in warning for warning in found.warnings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_checkpoints_or_a_data_set_that_is_one_is_refused(tmp_path: Path, kind: str) -> None:
    KINDS[kind](tmp_path / "it.npz")
    with pytest.raises(EngineError, match="must be a folder"):
        discover(tmp_path / "it.npz")
    with pytest.raises(CheckpointError, match="must be a regular file"):
        InputFile(tmp_path / "it.npz")
    for look in (open_binary, lambda path: read_bytes(path, most=1), entries_of):
        with pytest.raises(OSError, match=r"not a regular file|No such device|Not a directory"):
            look(tmp_path / "it.npz")


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "epoch-1.safetensors", "epoch-1", "modules.json"])
def test_links_that_lead_nowhere_are_passed_over(folder: Path, tmp_path: Path, name: str, kind: str) -> None:
    LINKS[kind](folder / name)
    output = combine_checkpoints(folder, output=tmp_path / "out")
    assert [path.name for path in output.iterdir()] == ["model.safetensors"]


@contextmanager
def exchanged_at(path: Path, opening: int) -> Iterator[list[Path]]:
    """A file becomes a pipe right before it is opened for the n-th time."""
    opened: list[Path] = []

    class Exchanges(boundary.WholeFileSystem):
        def open(self, asked: Path, flags: int) -> int:
            if asked == path:
                opened.append(asked)
                if len(opened) == opening:
                    path.unlink()
                    os.mkfifo(path)
            return super().open(asked, flags)

    before = boundary.install(Exchanges())
    try:
        yield opened
    finally:
        boundary.install(before)


@pytest.mark.parametrize(
    ("name", "opening"),
    [
        *(("step-2.safetensors", opening) for opening in (1, 2)),
        *((name, opening) for name in ("config.json", "tokenizer.json") for opening in (1, 2, 3)),
    ],
)
def test_a_file_that_becomes_a_pipe_right_before_it_is_opened_is_refused(
    tmp_path: Path, name: str, opening: int
) -> None:
    write_checkpoints(tmp_path / "in", plain_net)
    for side in ("config.json", "tokenizer.json"):
        (tmp_path / "in" / side).write_text("{}")
    with exchanged_at(tmp_path / "in" / name, opening) as opened, pytest.raises(EngineError) as caught:
        combine_checkpoints(tmp_path / "in", output=tmp_path / "out")
    assert len(opened) >= opening
    assert caught.value.code in ("unreadable-input", "inputs-changed")
    assert not (tmp_path / "out").exists()

"""When a stage counts as one that makes no progress."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ladle_engine.progress import STAGES as ENGINE_STAGES
from ladle_engine.progress import on_pulse, pulse
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.stall import DEFAULT_STALL_S, STAGES, StallWatch, read_limits


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    made = AttemptFolder(tmp_path / "attempt")
    made.make()
    return made


def test_limits_are_by_stage_and_one_for_all_others() -> None:
    assert read_limits("900") == {"": 900}
    assert read_limits("900, write=3600,start=60") == {"": 900, "write": 3600, "start": 60}
    assert read_limits("train=5") == {"": DEFAULT_STALL_S, "train": 5}


def test_every_stage_of_the_engine_can_have_a_limit() -> None:
    assert ("start", *ENGINE_STAGES) == STAGES


def test_only_what_moves_keeps_a_stage_from_being_stalled(folder: AttemptFolder) -> None:
    clock = Clock()
    watch = StallWatch(folder, {"": 10, "write": 100}, now=clock)
    assert not watch.stalled("train")
    for path in (folder.events, folder.log, folder.outcome):
        clock.now_s += 9
        path.write_text("more")
        assert not watch.stalled("train")
    clock.now_s += 9
    os.utime(folder.pulse, (1, 1))
    assert not watch.stalled("train")
    clock.now_s += 11
    assert not watch.stalled("write"), "its limit is longer"
    assert watch.stalled("train")
    assert watch.stalled(""), "before the first stage too"


def test_files_that_cannot_be_looked_at_do_not_move(folder: AttemptFolder) -> None:
    clock = Clock()
    watch = StallWatch(AttemptFolder(folder.path / "missing"), {"": 10}, now=clock)
    assert not watch.stalled("check")
    clock.now_s = 11
    assert watch.stalled("check")


def test_the_engine_pulses_where_it_reads_and_computes(tmp_path: Path) -> None:
    from ladle_engine.storage.input_file import InputFile

    beats: list[int] = []
    on_pulse(lambda: beats.append(1))
    pulse()
    assert beats == [1]
    (tmp_path / "file").write_bytes(b"some bytes")
    with InputFile(tmp_path / "file") as file:
        file.read(0, 4)
    assert beats == [1, 1]

"""Which checkpoints are finished, and when the next average is due."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ladle._spec import build_spec
from ladle.watching.looks import Files, finished_at, look, settled
from ladle.watching.ready import Ready, is_due, ready_of
from ladle_contracts.inspection import InspectedCheckpoint, Inspection, InspectionProblem

CUT = InspectionProblem(code="corrupt-checkpoint", message="It is cut off.")


def row(name: str, **changes: Any) -> InspectedCheckpoint:
    values: dict[str, Any] = {
        **{"name": name, "format": "safetensors", "size_bytes": 10, "num_files": 1},
        **{"taken": True, "usable": True, "step": int(name.partition("-")[2].partition(".")[0] or 0) or None},
    }
    return InspectedCheckpoint(**{**values, **changes})


def inspection(*rows: InspectedCheckpoint) -> Inspection:
    return Inspection(folder="/c", usable=True, checkpoints=rows)


def files(**changed_s: int) -> dict[str, tuple[int, int]]:
    """`e1=5` is `e-1.pt` of 10 bytes that was changed in second 5."""
    return {f"{name[0]}-{name[1:]}.pt": (10, second * 10**9) for name, second in changed_s.items()}


def names(ready: Ready) -> list[str]:
    return list(ready.taken)


def test_a_checkpoint_counts_when_two_looks_saw_the_same() -> None:
    found = inspection(row("e-1.pt"), row("e-2.pt"), row("e-3.pt"))
    ready = ready_of(found, files(e1=5, e2=6), files(e1=5, e2=7, e3=8))
    assert ready.taken == {"e-1.pt": 5.0}, "the second has changed, the third is new"
    assert ready.left_out == ("e-2.pt", "e-3.pt")
    ready = ready_of(found, files(e1=5, e2=7, e3=8), files(e1=5, e2=7, e3=8))
    assert ready.taken == {"e-1.pt": 5.0, "e-2.pt": 7.0, "e-3.pt": 8.0}
    assert (ready.steps, ready.last_step, ready.left_out) == ((1, 2, 3), 3, ())


def test_what_grew_without_another_time_has_changed() -> None:
    before: Files = {"a.pt": (10, 5)}
    assert finished_at("a.pt", 1, before, {"a.pt": (11, 5)}) is None
    assert settled(before, {"a.pt": (11, 5), "b.pt": (1, 1)}) == {}


def test_a_cut_off_file_is_left_out_and_told_only_when_nobody_writes_it_any_more() -> None:
    broken = row("e-3.pt", usable=False, taken=False, problem=CUT)
    found = inspection(row("e-1.pt"), row("e-2.pt"), broken)
    writing = ready_of(found, files(e1=5, e2=6, e3=7), files(e1=5, e2=6, e3=8))
    assert names(writing) == ["e-1.pt", "e-2.pt"]
    assert (writing.left_out, writing.problems) == (("e-3.pt",), {})
    left = ready_of(found, files(e1=5, e2=6, e3=8), files(e1=5, e2=6, e3=8))
    assert left.problems == {"e-3.pt": "It is cut off."}


def test_copies_count_once_and_what_a_filter_leaves_out_not_at_all() -> None:
    now = files(e1=5, e2=6, e3=7)
    found = inspection(row("e-1.pt"), row("e-2.pt", taken=False, duplicate_of="e-1.pt"), row("e-3.pt", taken=False))
    assert names(ready_of(found, now, now)) == ["e-1.pt"]


def test_a_single_checkpoint_is_known_though_no_job_would_take_it() -> None:
    now = files(e1=5)
    assert names(ready_of(inspection(row("e-1.pt", taken=False)), now, now)) == ["e-1.pt"]


@pytest.mark.parametrize(
    ("name", "num_files", "own"),
    [
        ("e-1.pt", 1, ["e-1.pt"]),
        ("checkpoint-5", 2, ["checkpoint-5/a.safetensors", "checkpoint-5/deep/b.pt"]),
        ("model.safetensors.index.json", 2, ["e-1.pt", "model-1-of-2.safetensors", "model.safetensors.index.json"]),
        ("run/last.ckpt", 1, ["run/last.ckpt"]),
    ],
)
def test_the_files_of_a_checkpoint_are_all_that_must_be_still(name: str, num_files: int, own: list[str]) -> None:
    every = [
        *("e-1.pt", "checkpoint-5/a.safetensors", "checkpoint-5/deep/b.pt", "checkpoint-50/a.safetensors"),
        *("model-1-of-2.safetensors", "model.safetensors.index.json", "run/last.ckpt", "run/e-1.ckpt"),
    ]
    still: Files = dict.fromkeys(every, (1, 3 * 10**9))
    assert finished_at(name, num_files, still, still) == 3.0
    for file in every:
        changed: Mapping[str, tuple[int, int]] = {**still, file: (2, 4 * 10**9)}
        assert (finished_at(name, num_files, still, changed) is None) == (file in own), file


TWO = Ready(taken={"a": 1.0, "b": 2.0})


@pytest.mark.parametrize(
    ("ready", "averaged", "attempted", "every", "due"),
    [
        (TWO, {}, {}, 1, True),
        (TWO, {}, {}, 2, True),
        (TWO, {}, {}, 3, False),
        (Ready(taken={"a": 1.0}), {}, {}, 1, False),
        (TWO, {"a": 1.0, "b": 2.0}, {}, 1, False),
        (TWO, {"a": 1.0, "b": 1.5}, {}, 1, True),
        (TWO, {"a": 1.0}, {}, 2, False),
        (TWO, {"a": 1.0, "x": 1.0}, {"a": 1.0, "b": 2.0}, 1, False),
        (TWO, {"a": 1.0, "b": 2.0, "c": 3.0}, {}, 1, False),
    ],
    ids=[
        *("the first", "the second of two", "not enough yet", "one is no average", "nothing new", "one was replaced"),
        *("one of two", "tried and failed with the same", "one was deleted"),
    ],
)
def test_an_average_is_due_at_every_kth_new_checkpoint(
    ready: Ready, averaged: dict[str, float], attempted: dict[str, float], every: int, due: bool
) -> None:
    assert is_due(ready, averaged, attempted, every) is due


def test_a_job_names_what_it_takes_and_leaves_out_what_is_being_written() -> None:
    ready = Ready(taken={"e-1.pt": 1.0, "e-2.pt": 2.0}, steps=(1, 2), left_out=("e[3].pt",))
    assert ready.filters({"exclude": "best*", "last": 5}) == {
        "exclude": ["best*", "e[[]3].pt"], "last": 5, "steps": [1, 2],
    }  # fmt: skip
    assert "steps" not in Ready(taken={"last.ckpt": 1.0}).filters({})
    many = Ready(left_out=(*(f"e-{number}.pt" for number in range(150)), "x" * 600))
    build_spec("/c", "/v", {"checkpoints": many.filters({"exclude": ["a"]})})


def test_without_a_step_for_each_no_steps_are_named() -> None:
    now = files(e1=5, e2=6)
    ready = ready_of(inspection(row("e-1.pt"), row("e-2.pt", step=None)), now, now)
    assert (ready.steps, ready.last_step) == (None, None)


def test_a_look_sees_weights_below_the_folder_and_through_links_and_no_logs(tmp_path: Path) -> None:
    assert look(tmp_path / "absent") == {}
    (tmp_path / "run/version_0").mkdir(parents=True)
    (tmp_path / "run/version_0/last.ckpt").write_bytes(b"12")
    (tmp_path / "run/events.out.tfevents.1").write_bytes(b"1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/model.safetensors").write_bytes(b"123")
    (tmp_path / "run/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run/loop").symlink_to(tmp_path / "run")
    (tmp_path / "run/nothing.pt").symlink_to(tmp_path / "nowhere")
    os.utime(tmp_path / "run/version_0/last.ckpt", ns=(7, 7))
    found = look(tmp_path / "run")
    assert found.keys() == {"linked/model.safetensors", "version_0/last.ckpt"}
    assert found["version_0/last.ckpt"] == (2, 7)

"""A job's folders: nothing is ever seen, moved or removed by half, and nothing of anybody else's."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from ladle_worker.job_folder import JobFolder, jobs_with_folders, provenance_of


def make_result(folder: Path, job_id: object, attempt: str = "1") -> Path:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"provenance": {"job_id": job_id, "attempt": attempt}}))
    (folder / "model.safetensors").write_text("weights")
    return folder


def test_a_withdrawn_result_is_gone_with_all_that_the_job_had(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, "j1")
    job.attempt(1).path.mkdir(parents=True)
    make_result(job.staging(2), "j1")
    destination = make_result(tmp_path / "out", "j1")
    job.clear(destination, keep_result=False)
    assert [path.name for path in tmp_path.rglob("*")] == [".ladle"]


def test_the_result_of_a_job_that_succeeded_stays(tmp_path: Path) -> None:
    job = JobFolder(tmp_path, "j1")
    make_result(job.staging(1), "j1")
    destination = make_result(tmp_path / "out", "j1")
    job.clear(destination, keep_result=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("made_by", ["j2", None, ["j1"], {"j1": 1}])
def test_anybody_elses_folder_is_not_withdrawn(tmp_path: Path, made_by: object) -> None:
    destination = make_result(tmp_path / "out", made_by)
    JobFolder(tmp_path, "j1").withdraw(destination)
    assert sorted(path.name for path in destination.iterdir()) == ["model.safetensors", "report.json"]


def test_only_the_attempt_that_is_meant_is_withdrawn(tmp_path: Path) -> None:
    destination = make_result(tmp_path / "out", "j1", attempt="2")
    JobFolder(tmp_path, "j1").withdraw(destination, "1")
    assert destination.exists()
    JobFolder(tmp_path, "j1").withdraw(destination, "2")
    assert not destination.exists()


def test_a_result_that_takes_the_place_at_the_last_moment_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = make_result(tmp_path / "out", "j1")
    original = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self == destination:
            (destination / "report.json").write_text(json.dumps({"provenance": {"job_id": "j2"}}))
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    JobFolder(tmp_path, "j1").withdraw(destination)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert provenance_of(destination)["job_id"] == "j2"


def test_staging_folders_go_at_once_so_that_no_half_of_one_can_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = JobFolder(tmp_path, "j1")
    make_result(job.staging(1), "j1")
    seen = []
    monkeypatch.setattr("shutil.rmtree", lambda folder, **_: seen.append((folder, job.staging(1).exists())))
    job.remove_staging()
    assert [exists for _, exists in seen] == [False]


def test_a_report_that_never_ends_or_is_no_report_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "report.json")
    found = []
    thread = threading.Thread(target=lambda: found.append(provenance_of(tmp_path / "pipe")), daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert found == [{}]
    for text in ("", "[]", "{", '{"provenance": 3}', "[" * 100_000, "\0"):
        (tmp_path / "report.json").write_text(text)
        assert provenance_of(tmp_path) == {}


def test_names_that_are_no_job_are_not_taken_for_one(tmp_path: Path) -> None:
    for name in ("0a1b", os.fsdecode(b"caf\xe9"), "a b", "*"):
        (tmp_path / ".ladle" / name).mkdir(parents=True)
    (tmp_path / ".ladle-2c3d-1.tmp").mkdir()
    assert jobs_with_folders(tmp_path) == {"0a1b", "2c3d"}

"""Which errors end a job for good, under which reason, and which are worth another attempt."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from ladle_contracts import JobSpec, Reason
from ladle_engine import EngineError, average
from ladle_engine.distributed.collectives import RankLostError
from ladle_engine.errors import DataError, TaskError
from ladle_engine.storage import boundary
from ladle_engine.storage.atomic_folder import FULL_DISK, LostFolder, naming_disk_faults
from ladle_worker import disk_faults
from ladle_worker.agent import run_claimed
from ladle_worker.attempt import Attempt
from ladle_worker.claim import Ended
from ladle_worker.failure import failure_of, log_failure
from ladle_worker.job_folder import JobFolder
from tests.builders import make_checkpoints, make_val_set


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataError("empty-data", "none"), Reason.EMPTY_DATA),
        (TaskError("task-failed", "it fails"), Reason.TASK_FAILED),
        (TaskError("a-code-of-its-own", "it fails"), Reason.TASK_FAILED),
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), Reason.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Reason.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), Reason.DISK_FULL),
        (OSError(errno.EROFS, "Read-only file system"), Reason.RESULTS_UNWRITABLE),
        (KeyError("x"), Reason.INTERNAL_ERROR),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), Reason.INTERNAL_ERROR),
        (FileNotFoundError(errno.ENOENT, "No such file"), Reason.INTERNAL_ERROR),
        (PermissionError(errno.EACCES, "Permission denied"), Reason.INTERNAL_ERROR),
        (ValueError("`last` must be at least 1, but is 0."), Reason.INTERNAL_ERROR),
    ],
    ids=str,
)
def test_what_would_come_again_is_final(error: Exception, reason: Reason) -> None:
    failure = failure_of(error)
    assert failure is not None
    assert failure.reason is reason
    assert failure.message, "it says something"


@pytest.mark.parametrize(
    "error",
    [
        RankLostError("rank 1 did not answer"),
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"),
        torch.distributed.DistBackendError("NCCL error: remote process exited"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: no CUDA-capable device is detected"),
        RuntimeError("No CUDA GPUs are available"),
    ],
    ids=str,
)
def test_a_lost_rank_is_worth_another_attempt(error: Exception) -> None:
    assert failure_of(error) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_what_the_engine_says_of_a_results_disk_that_stays_so_is_final(tmp_path: Path, number: int) -> None:
    with pytest.raises(EngineError) as raised, naming_disk_faults("state_dir", tmp_path):
        raise OSError(number, "as the kernel says", str(tmp_path / "file"))
    failure = failure_of(raised.value)
    assert failure is not None
    assert failure.is_final
    full = number in (errno.ENOSPC, errno.EDQUOT)
    assert failure.reason is (Reason.DISK_FULL if full else Reason.RESULTS_UNWRITABLE)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
@pytest.mark.parametrize(
    ("place", "opening", "reason"),
    [
        ("run", 1, Reason.UNREADABLE_INPUT),
        ("run/epoch-4.safetensors", 1, Reason.UNREADABLE_INPUT),
        ("run/epoch-4.safetensors", 2, Reason.UNREADABLE_INPUT),
        ("run/config.json", 2, Reason.UNREADABLE_INPUT),
        ("val.npz", 2, Reason.INVALID_DATA),
    ],
)
def test_an_input_whose_disk_does_not_answer_is_worth_another_attempt(
    tmp_path: Path, place: str, opening: int, reason: Reason, number: int
) -> None:
    make_checkpoints(tmp_path / "run")
    make_val_set(tmp_path / "val.npz")
    opened = []

    class Fails(boundary.WholeFileSystem):
        def open(self, path: Path, flags: int) -> int:
            if path == tmp_path / place:
                opened.append(path)
                if len(opened) == opening:
                    raise OSError(number, os.strerror(number))
            return super().open(path, flags)

    before = boundary.install(Fails())
    try:
        with pytest.raises(EngineError) as caught:
            average(tmp_path / "run", tmp_path / "val.npz", output=tmp_path / "out", method="uniform")
    finally:
        boundary.install(before)
    failure = failure_of(caught.value)
    assert failure is not None
    assert (failure.reason, failure.is_final) == (reason, False)
    assert os.strerror(number) in failure.message


def test_an_input_that_is_broken_or_no_file_is_not(tmp_path: Path) -> None:
    make_checkpoints(tmp_path / "run")
    (tmp_path / "run" / "epoch-4.safetensors").write_bytes(b"broken")
    for val_set in ("missing.npz", "run"):
        with pytest.raises(EngineError) as caught:
            average(tmp_path / "run", tmp_path / val_set, output=tmp_path / "out", method="uniform")
        failure = failure_of(caught.value)
        assert failure is not None
        assert failure.is_final


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "Input/output error", "/data/step-1.pt"), Reason.CRASHED),
        (OSError(errno.ESTALE, "Stale file handle", "/data/step-1.pt"), Reason.CRASHED),
        (LostFolder(errno.ENOENT, "`state_dir` must stay where it is"), Reason.RESULTS_UNWRITABLE),
        (disk_faults.disk_fault(OSError(errno.EIO, "Input/output error"), "write"), Reason.RESULTS_UNWRITABLE),
    ],
    ids=str,
)
def test_a_disk_that_may_come_back_is_worth_another_attempt_and_is_named(error: Exception, reason: Reason) -> None:
    failure = failure_of(error)
    assert failure is not None
    assert not failure.is_final
    assert failure.reason is reason
    assert str(error).rstrip(".") in failure.message


def test_a_mistake_in_ladle_is_named_with_its_place_and_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    from ladle_engine.coefficients import Coefficients

    try:
        Coefficients.whole_model((), (), None)  # type: ignore[arg-type]
    except Exception as error:
        failure = failure_of(error)
        assert failure is not None
        log_failure(failure, error)
    assert failure.reason is Reason.INTERNAL_ERROR
    assert "coefficients.py, line " in failure.message
    log = capsys.readouterr().err
    assert log.startswith("Traceback")
    assert log.endswith(f"[internal-error] {failure.message}\n")


def test_the_log_has_the_traceback_of_the_tasks_own_error_and_not_of_ladles(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        try:
            raise KeyError("theirs")
        except KeyError as cause:
            raise TaskError("task-failed", "Task `x` fails.") from cause
    except TaskError as error:
        log_failure(failure_of(error), error)  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == ["KeyError: 'theirs'", "[task-failed] Task `x` fails."]
    assert not any("TaskError" in line for line in lines)


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), "failed", Reason.INTERNAL_ERROR),
        (KeyError("progress"), "failed", Reason.INTERNAL_ERROR),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "node-failed", Reason.CRASHED),
    ],
    ids=str,
)
def test_a_mistake_in_the_agent_is_final_too_and_not_a_lost_node(
    monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: str, reason: Reason
) -> None:
    def fail(self: Attempt) -> Ended:
        raise error

    monkeypatch.setattr(Attempt, "run", fail)
    assert outcome_of_agent() == (outcome, reason)


@pytest.mark.parametrize(
    ("number", "outcome", "reason"),
    [
        (errno.ENOSPC, "failed", Reason.DISK_FULL),
        (errno.EDQUOT, "failed", Reason.DISK_FULL),
        (errno.EROFS, "failed", Reason.RESULTS_UNWRITABLE),
        (errno.EACCES, "failed", Reason.RESULTS_UNWRITABLE),
        (errno.ENOENT, "node-failed", Reason.RESULTS_UNWRITABLE),
        (errno.ESTALE, "node-failed", Reason.RESULTS_UNWRITABLE),
        (errno.EIO, "node-failed", Reason.RESULTS_UNWRITABLE),
    ],
)
def test_the_agents_own_errors_of_the_results_disk_have_their_reason(
    monkeypatch: pytest.MonkeyPatch, number: int, outcome: str, reason: Reason
) -> None:
    def fail(self: JobFolder) -> None:
        raise OSError(number, "as the kernel says", "/results/.ladle")

    monkeypatch.setattr(JobFolder, "remove_staging", fail)
    assert outcome_of_agent() == (outcome, reason)


def outcome_of_agent() -> tuple[str, Reason | None]:
    class Claimed:
        node_rank, speaks, ran_s = 0, True, 0.0
        job_id, attempt, output, spec = "job", 1, "out", JobSpec(ckpt_dir="/c", val_set="/v")
        nodes = ("node-1",)

    settings = type(
        "Settings",
        (),
        {
            "results_dir": Path("results"),
            "results_url": None,
            "node_id": "node-1",
            "lease_s": 1.0,
            "state_copy_s": 1.0,
            "stall_s": {"": 1.0},
        },
    )
    ended = run_claimed(settings, Claimed())  # type: ignore[arg-type]
    assert ended is not None
    assert ended.message
    return ended.outcome, ended.reason


def test_the_worker_and_the_engine_know_the_same_full_disks() -> None:
    assert set(disk_faults.FULL) == set(FULL_DISK)

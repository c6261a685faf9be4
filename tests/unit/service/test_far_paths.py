"""Addresses in a spec: what the service lets through, and what it says of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from ladle_contracts import ErrorCode, JobSpec, TrainSet
from ladle_service.problems import ApiError
from ladle_service.roots import check_paths

FAR = ("s3://bucket/runs", "https://files.example.org/data")


def test_addresses_below_the_roots_are_let_through_beside_paths(tmp_path: Path) -> None:
    (tmp_path / "val.npz").touch()
    spec = JobSpec(
        ckpt_dir=("s3://bucket/runs/7", "s3://bucket/runs/8/*"),
        val_set={"near": str(tmp_path / "val.npz"), "far": "https://files.example.org/data/val.npz"},
        train_set=TrainSet(path=f"file://{tmp_path}/val.npz"),
    )
    check_paths(spec, [tmp_path], FAR)


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/other", "s3://bucket/runs/../other", "http://files.example.org/data/x", "ftp://bucket/runs",
        "https://files.example.org@evil.org/data", "https://user:secret@files.example.org/data/x", "file:///etc/passwd",
        "https://files.example.org/data/x?token=secret", "s3://bucket/*/x",
    ],
)  # fmt: skip
def test_any_other_address_is_refused_and_shown_without_its_secrets(tmp_path: Path, address: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_paths(JobSpec(ckpt_dir="s3://bucket/runs/7", val_set=address), [tmp_path], FAR)
    assert caught.value.code == ErrorCode.PATH_NOT_ALLOWED
    assert [error["field"] for error in caught.value.errors] == ["val_set"]
    assert "secret" not in f"{caught.value} {caught.value.errors}"

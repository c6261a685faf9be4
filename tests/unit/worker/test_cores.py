"""The CPU quota of a container counts as well as the cores that a process may run on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ladle_worker import cores
from ladle_worker.cores import usable_cores
from ladle_worker.launch.environment import rank_environment


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 cores without any quota."""
    (tmp_path / "groups").mkdir()
    monkeypatch.setattr(cores, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(cores, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    return tmp_path / "groups"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


def quota(folder: Path, version: int, quota_us: int | None, period_us: int = 100_000) -> None:
    if version == 2:
        write(folder, cpu_max=f"{'max' if quota_us is None else quota_us} {period_us}\n")
    else:
        write(folder, cpu_cfs_quota_us=f"{-1 if quota_us is None else quota_us}\n", cpu_cfs_period_us=f"{period_us}\n")


LINES = {
    "version 2": (2, "0::/jobs/one\n", "jobs/one"),
    "version 1": (1, "5:memory:/else\n4:cpu:/jobs/one\n0::/\n", "cpu/jobs/one"),
    "joint controllers": (1, "4:cpu,cpuacct:/jobs/one\n0::/\n", "cpu,cpuacct/jobs/one"),
    "hybrid": (2, "4:memory:/else\n0::/jobs/one\n", "unified/jobs/one"),
}


@pytest.mark.parametrize("layout", LINES)
def test_the_smallest_quota_on_the_way_up_counts(groups: Path, layout: str) -> None:
    version, text, path = LINES[layout]
    (groups.parent / "own").write_text(text)
    own = groups / path
    own.mkdir(parents=True)
    assert usable_cores() == 16
    quota(own, version, 400_000)
    assert usable_cores() == 4
    quota(own.parent, version, 100_000, 50_000)
    assert usable_cores() == 2, "the groups above count too"
    quota(own.parent, version, None)
    assert usable_cores() == 4
    quota(own, version, 250_000)
    assert usable_cores() == 2, "of two and a half"
    quota(own, version, 50_000)
    assert usable_cores() == 1, "of a half"
    quota(own, version, 6_400_000)
    assert usable_cores() == 16, "no more than there are"


@pytest.mark.parametrize(
    ("path", "mounted"),
    [
        ("/docker/4f2a/inner", "inner"),  # the container's group is mounted as the root, and the process is below it
        ("/docker/4f2a", ""),
        ("/../other", "other"),  # of another namespace
        ("/kubepods.slice/pod.slice/cri-containerd-4f2a.scope", ""),
    ],
)
def test_a_container_that_sees_a_part_of_the_tree_finds_its_own_group(groups: Path, path: str, mounted: str) -> None:
    (groups.parent / "own").write_text(f"0::{path}\n")
    quota(groups / mounted, 2, 300_000)
    assert usable_cores() == 3


@pytest.mark.parametrize("text", ["", "max", "-1", "nonsense\n", "200000", "0 100000", "200000 0"])
def test_what_is_no_quota_is_none(groups: Path, text: str) -> None:
    (groups.parent / "own").write_text("0::/\n")
    write(groups, cpu_max=text)
    assert usable_cores() == 16


def test_ranks_share_the_quota_as_threads(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (groups.parent / "own").write_text("0::/\n")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    quota(groups, 2, 600_000)
    assert [rank_environment(ranks)["OMP_NUM_THREADS"] for ranks in (1, 2, 4, 8)] == ["6", "3", "1", "1"]

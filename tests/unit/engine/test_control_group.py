"""Free memory within control groups, in the layouts that machines and containers have."""

from __future__ import annotations

from pathlib import Path

import pytest

from ladle_engine.storage import control_group

NO_LIMIT_V1 = "9223372036854771712"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(control_group, "ROOT", tmp_path / "groups")
    monkeypatch.setattr(control_group, "OWN_GROUPS", tmp_path / "own")
    return tmp_path / "groups"


def own(root: Path, text: str) -> None:
    (root.parent / "own").write_text(text)


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text + "\n")


def test_the_smaller_of_max_and_high_counts(root: Path) -> None:
    own(root, "0::/a\n")
    write(root / "a", memory_max="1000", memory_high="max", memory_current="300")
    assert control_group.free_bytes() == [700]
    write(root / "a", memory_high="500")
    assert control_group.free_bytes() == [200]
    write(root / "a", memory_max="max")
    assert control_group.free_bytes() == [200]
    write(root / "a", memory_high="max", memory_swap_max="0")
    assert control_group.free_bytes() == []


def test_every_group_on_the_way_up_counts_with_its_own_use(root: Path) -> None:
    own(root, "0::/a/b\n")
    write(root / "a" / "b", memory_max="1000", memory_current="100", memory_stat="inactive_file 50\nanon 50")
    write(root / "a", memory_max="700", memory_current="600", memory_stat="inactive_file 500")
    write(root, memory_max="max", memory_current="10")
    assert control_group.free_bytes() == [950, 600]


def test_of_a_group_that_is_full_nothing_is_free(root: Path) -> None:
    own(root, "0::/a\n")
    write(root / "a", memory_max="100", memory_current="150", memory_stat="inactive_file 9")
    assert control_group.free_bytes() == [0]
    write(root / "a", memory_current="50", memory_stat="inactive_file 80")
    assert control_group.free_bytes() == [100], "the cache is no larger than all that is used"


def test_version_1_tells_the_limit_of_groups_that_a_container_does_not_see(root: Path) -> None:
    own(root, "4:memory:/docker/4f2a\n0::/\n")
    write(
        root / "memory", memory_limit_in_bytes=NO_LIMIT_V1, memory_usage_in_bytes="300",
        memory_stat="cache 5\nhierarchical_memory_limit 1000\ntotal_inactive_file 100",
    )  # fmt: skip
    assert control_group.free_bytes() == [800]


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("0::/docker/4f2a/inner", "inner"),  # the container's group is mounted as the root
        ("0::/docker/4f2a", ""),
        ("0::/../other", "other"),  # of another namespace
        ("0::/jobs/one", "unified/jobs/one"),  # both versions side by side
        ("3:cpuset,memory:/x/y", "memory/x/y"),
    ],
)
def test_a_process_finds_its_group_however_it_is_mounted(root: Path, line: str, folder: str) -> None:
    own(root, f"{line}\n")
    one = {"memory_max": "500", "memory_current": "100"}
    if folder.startswith("memory"):
        one = {"memory_limit_in_bytes": "500", "memory_usage_in_bytes": "100"}
    write(root / folder, **one)
    assert control_group.free_bytes() == [400]


def test_a_machine_without_control_groups_has_no_limit(root: Path) -> None:
    assert control_group.free_bytes() == []
    own(root, "1:name=systemd:/x\n0::/\n")
    assert control_group.free_bytes() == []

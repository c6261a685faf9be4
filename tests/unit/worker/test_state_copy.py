"""The copy of a resume state that goes through Redis, between nodes that share no disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ladle_worker import state_copy
from ladle_worker.state_copy import StateCopy


class Claim:
    """Of one attempt; all attempts have the same Redis."""

    def __init__(self, attempt: int, kept: dict[str, str]) -> None:
        self.job_id, self.attempt, self.kept = "job", attempt, kept

    def keep_state(self, files: Mapping[str, str], *, whole: bool) -> None:
        if whole:
            self.kept.clear()
        for name, content in files.items():
            self.kept[name] = content
            if not content:
                del self.kept[name]
        self.kept["/attempt"] = str(self.attempt)

    def state_copy(self) -> dict[str, str]:
        return dict(self.kept)


class Disk:
    """Of one node."""

    def __init__(self, folder: Path, kept: dict[str, str]) -> None:
        self.state, self.mark, self.kept = folder / "state", folder / "state-attempt", kept
        self.state.mkdir(parents=True)

    def begin(self, attempt: int) -> StateCopy:
        copy = StateCopy(self.state, self.mark, Claim(attempt, self.kept), every_s=10.0)  # type: ignore[arg-type]
        copy.restore()
        return copy

    def write(self, step: int) -> None:
        (self.state / "key").mkdir(exist_ok=True)
        (self.state / "key" / "twa.pt").write_bytes(b"step %d" % step)

    @property
    def step(self) -> int | None:
        path = self.state / "key" / "twa.pt"
        return int(path.read_bytes().split()[1]) if path.exists() else None


@pytest.fixture
def disks(tmp_path: Path) -> tuple[Disk, Disk]:
    kept: dict[str, str] = {}
    return Disk(tmp_path / "a", kept), Disk(tmp_path / "b", kept)


def test_a_node_goes_on_from_where_another_one_was(disks: tuple[Disk, Disk]) -> None:
    one, other = disks
    first = one.begin(1)
    one.write(100)
    first.send()
    second = other.begin(2)
    assert other.step == 100
    other.write(500)
    second.send()
    one.begin(3)
    assert one.step == 500, "its own is older"


def test_what_is_on_the_disk_is_newer_than_the_copy_of_the_same_attempt(disks: tuple[Disk, Disk]) -> None:
    one, _ = disks
    first = one.begin(1)
    one.write(100)
    first.send()
    one.write(200)
    one.begin(2)
    assert one.step == 200


def test_a_file_that_is_gone_goes_from_the_copy_too(disks: tuple[Disk, Disk]) -> None:
    one, other = disks
    first = one.begin(1)
    one.write(100)
    (one.state / "key" / "scores.pt").write_bytes(b"1")
    first.send()
    (one.state / "key" / "twa.pt").unlink()
    first.send()
    other.begin(2)
    assert [path.name for path in other.state.rglob("*.pt")] == ["scores.pt"]


def test_a_large_state_is_not_copied(disks: tuple[Disk, Disk], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = disks
    monkeypatch.setattr(state_copy, "MOST_BYTES", 5)
    first = one.begin(1)
    one.write(100)
    first.send()
    other.begin(2)
    assert other.step is None


def test_what_is_computed_anew_is_not_copied_and_makes_no_state_too_large(
    disks: tuple[Disk, Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = disks
    monkeypatch.setattr(state_copy, "MOST_BYTES", 100)
    first = one.begin(1)
    one.write(100)
    (one.state / "key" / "outputs-single-0.pt").write_bytes(bytes(1000))
    first.send()
    other.begin(2)
    assert other.step == 100
    assert [path.name for path in other.state.rglob("*.pt")] == ["twa.pt"]


def test_a_copy_writes_nowhere_else(disks: tuple[Disk, Disk], tmp_path: Path) -> None:
    _, other = disks
    other.kept |= {"/attempt": "1", "../stray": "AAAA", "/stray": "AAAA", "key/ok.pt": "AAAA"}
    other.begin(2)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["ok.pt", "state-attempt"]

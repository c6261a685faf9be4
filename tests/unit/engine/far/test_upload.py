"""A result on its way into a store: half of one is marked, and nobody takes away or mixes up what is another's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ladle_engine import OutputError
from ladle_engine.far_urls import parse_url
from ladle_engine.progress import ignore
from ladle_engine.storage.far import checksums, stores
from ladle_engine.storage.far.checksums import is_told_by
from ladle_engine.storage.far.stores import Access, list_files
from ladle_engine.storage.far.upload import MARKER, Upload, look, refuse_existing, withdraw
from tests.far_servers import S3

URL = parse_url("s3://bucket/results/x")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A result of job `one`, by attempt 1."""
    folder = tmp_path / "result"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    (folder / "report.json").write_text(json.dumps({"provenance": {"job_id": "one", "attempt": "1"}}))
    return folder


def upload_of(folder: Path, job_id: str | None = "one", wait: Callable[[], None] = lambda: None) -> Upload:
    return Upload(folder=folder, url=URL, access=Access(), job_id=job_id, wait=wait)


def names(s3: S3) -> list[str]:
    return [key.removeprefix("results/x/") for key in s3.found("results/x")]


def test_the_report_comes_last_and_then_the_marker_goes(s3: S3, folder: Path) -> None:
    upload = upload_of(folder)
    upload.send(ignore)
    assert [name for name in names(s3) if not name.startswith(MARKER)] == ["model.safetensors", "tokenizer/vocab.json"]
    assert look(URL, Access()).provenance == {}
    upload.publish()
    assert names(s3) == ["model.safetensors", "report.json", "tokenizer/vocab.json"]
    assert look(URL, Access()).provenance == {"job_id": "one", "attempt": "1"}
    wrote = [each.split()[0:2] for each in s3.requests if each.startswith(("PUT", "DELETE"))]
    assert "report.json" in wrote[-2][1]
    assert wrote[-1][0] == "DELETE"
    assert MARKER in wrote[-1][1]


@pytest.mark.parametrize("change", ["replaced", "removed", "added", "marker removed"])
def test_what_somebody_changes_before_the_report_ends_it_and_is_no_result(s3: S3, folder: Path, change: str) -> None:
    upload = upload_of(folder)
    upload.send(ignore)
    if change == "replaced":
        s3.put_bytes("results/x/model.safetensors", b"WEIGHTS" * 100)
    elif change == "added":
        s3.put_bytes("results/x/more.bin", b"more")
    else:
        (gone,) = [key for key in s3.found() if (MARKER in key) == (change == "marker removed") and "vocab" not in key]
        s3.client().delete_object(Bucket="bucket", Key=gone)
    with pytest.raises(OutputError, match="somebody has") as caught:
        upload.publish()
    assert caught.value.code == "results-unwritable"
    assert "report.json" not in names(s3)


def test_the_next_attempt_of_the_same_job_replaces_half_a_result(s3: S3, folder: Path) -> None:
    first = upload_of(folder)
    first.send(ignore)
    s3.put_bytes("results/x/model-00002.safetensors", b"a shard of the first one")
    second = upload_of(folder)
    second.send(ignore)
    # What the first one does late changes nothing.
    with pytest.raises(OutputError, match="somebody has removed"):
        first.publish()
    second.publish()
    assert names(s3) == ["model.safetensors", "report.json", "tokenizer/vocab.json"]


@pytest.mark.parametrize("owner", ["two", None])
def test_an_upload_of_another_owner_is_left_alone(s3: S3, folder: Path, owner: str | None) -> None:
    first = upload_of(folder)
    first.send(ignore)
    before = names(s3)
    with pytest.raises(OutputError, match="an upload that job one has not ended") as caught:
        upload_of(folder, owner).send(ignore)
    assert caught.value.code == "output-exists"
    assert not withdraw(URL, Access(), "two")
    assert names(s3) == before
    first.publish()
    with pytest.raises(OutputError, match="exists"):
        refuse_existing(URL, Access(), owner)


def test_two_that_begin_at_the_same_moment_both_give_up(s3: S3, folder: Path) -> None:
    def other_begins(method: str, path: str) -> str | None:
        if method == "PUT":
            s3.put_bytes(f"results/x/{MARKER}other.json", b'{"job_id": "two"}')
        return None

    s3.fault = other_begins
    with pytest.raises(OutputError, match="job two"):
        upload_of(folder).send(ignore)
    assert names(s3) == [f"{MARKER}other.json"]


def test_each_request_that_writes_waits_until_it_may(s3: S3, folder: Path) -> None:
    order: list[str] = []

    def note(method: str, path: str) -> None:
        if method in ("PUT", "DELETE"):
            order.append("write")

    s3.fault = note
    upload = upload_of(folder, wait=lambda: order.append("wait"))
    upload.send(ignore)
    upload.publish()
    assert order.count("write") == 5
    for end in range(1, len(order)):
        assert order[:end].count("write") <= order[:end].count("wait")


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_result_is_withdrawn_report_first_and_markers_last(s3: S3, folder: Path, is_whole: bool) -> None:
    upload = upload_of(folder)
    upload.send(ignore)
    if is_whole:
        upload.publish()
        assert not withdraw(URL, Access(), "one", attempt="2")
        assert not withdraw(URL, Access(), "two")
    s3.requests.clear()
    assert withdraw(URL, Access(), "one")
    gone = [each.split()[1] for each in s3.requests if each.startswith("DELETE")]
    assert MARKER in gone[-1]
    assert not is_whole or "report.json" in gone[0]
    assert not names(s3)


def test_a_withdrawal_that_is_interrupted_leaves_half_a_result_and_goes_on_later(s3: S3, folder: Path) -> None:
    upload = upload_of(folder)
    upload.send(ignore)
    upload.publish()
    s3.fault = lambda method, path: "AccessDenied" if method == "DELETE" and "model" in path else None
    with pytest.raises(Exception, match="must be writable"):
        withdraw(URL, Access(), "one")
    assert "report.json" not in names(s3)
    assert look(URL, Access()).jobs == {"one"}
    s3.fault = lambda method, path: None
    assert withdraw(URL, Access(), "one")
    assert not names(s3)


@pytest.mark.parametrize("kind", [MARKER, "report.json"])
def test_what_another_takes_away_while_it_is_looked_at_is_not_there(s3: S3, folder: Path, kind: str) -> None:
    """The agent and the sweep may withdraw one upload together."""
    upload = upload_of(folder)
    upload.send(ignore)
    if kind != MARKER:
        upload.publish()

    def take_away(method: str, path: str) -> None:
        if method == "GET" and kind in path:
            s3.client().delete_object(Bucket="bucket", Key=path.split()[0].removeprefix("/bucket/"))

    s3.fault = take_away
    place = look(URL, Access())
    assert not place.markers
    assert not place.jobs
    assert not place.provenance


@pytest.mark.parametrize(
    "report", [b"", b"[1]", b"\xff", b"[" * 100_000, b'{"provenance": 3}', b'{"provenance": {"job_id": ["one"]}}']
)
def test_a_report_that_anybody_may_have_written_makes_it_nobodys(s3: S3, report: bytes) -> None:
    s3.put_bytes("results/x/report.json", report)
    assert not look(URL, Access()).is_free_for("one")
    assert not withdraw(URL, Access(), "one")
    assert names(s3) == ["report.json"]


@pytest.mark.parametrize("size", [0, 1, 6 << 20, 12 << 20])
def test_a_large_file_goes_in_parts_and_is_not_read_back_where_the_store_tells_its_checksum(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for module in (stores, checksums):
        monkeypatch.setattr(module, "PUT_BYTES", 5 << 20)
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "model.bin").write_bytes(bytes(range(251)) * (size // 251) + b"!" * (size % 251))
    upload = upload_of(folder, None)
    upload.send(ignore)
    upload.publish()
    assert s3.get("results/x/model.bin") == (folder / "model.bin").read_bytes()
    assert not s3.of("model.bin")
    (found,) = list_files(URL, Access())
    assert ("-" in found.tag) == (size >= 10 << 20)
    assert is_told_by(found.tag, folder / "model.bin")
    (folder / "model.bin").write_bytes(b"?" * max(size, 1))
    assert not is_told_by(found.tag, folder / "model.bin")


def test_a_part_that_is_dropped_is_sent_again(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PUT_BYTES", 5 << 20)
    dropped: list[str] = []

    def drop(method: str, path: str) -> str | None:
        if method == "PUT" and "partNumber=2" in path and not dropped:
            dropped.append(path)
            return "drop"
        return None

    s3.fault = drop
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "model.bin").write_bytes(bytes(11 << 20))
    upload_of(folder, None).send(ignore)
    assert dropped
    assert s3.get("results/x/model.bin") == bytes(11 << 20)

"""WebDataset shards: rows of files with one name, and archives that hold something else or are damaged."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest

from ladle_engine.errors import EngineError
from ladle_engine.tasks.tables import open_table
from tests.unit.tasks.tables.helpers import all_rows, read_or_refused, refused, write


def member(archive: tarfile.TarFile, name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content) if kind == tarfile.REGTYPE else 0, "/etc/passwd"
    archive.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)


def shard(path: Path, start: int = 0, count: int = 20, form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for number in range(start, start + count):
            member(archive, f"{number:05d}.JPG", b"\xff\xd8" + bytes([number]))
            member(archive, f"{number:05d}.cls", f"{number % 3}\n".encode())
            if number % 2:
                member(archive, f"{number:05d}.json", f'{{"n": {number}}}'.encode())
    return path


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_files_of_one_name_are_a_row_with_a_column_per_suffix(tmp_path: Path, form: int) -> None:
    table = open_table(shard(tmp_path / "x.tar", form=form))
    assert table.columns == {"__key__": "text", "jpg": "bytes", "cls": "text", "json": "object"}
    assert table.rows([3, 0], ["__key__", "cls", "json", "jpg"]) == [
        {"__key__": "00003", "cls": "0", "json": {"n": 3}, "jpg": b"\xff\xd8\x03"},
        {"__key__": "00000", "cls": "0", "json": None, "jpg": b"\xff\xd8\x00"},
    ]
    assert table.place(3) == "`x.tar`, key `00003`"
    assert not table.remarks


def test_a_folder_of_shards_is_one_table(tmp_path: Path) -> None:
    for number in range(12):
        shard(tmp_path / f"data/{number:03d}.tar", start=10 * number, count=10)
    table = open_table(tmp_path / "data")
    assert [row["__key__"] for row in table.rows([119, 0, 55], ["__key__"])] == ["00119", "00000", "00055"]
    assert len(open_table(tmp_path / "data", limit=15)) == 15


def test_a_name_ends_at_its_first_point_and_folders_are_part_of_it(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("./a.b/one.seg.png", "./a.b/one.txt", "./a.b/two.txt", "a" * 300 + ".txt", "README", ".hidden"):
            member(archive, name)
    table = open_table(tmp_path / "x.tar")
    assert set(table.columns) == {"__key__", "seg.png", "txt"}
    assert [row["__key__"] for row in all_rows(table)] == ["./a.b/one", "./a.b/two", "a" * 300]
    assert "2 of the kind `file without a suffix`" in table.remarks[0]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.CONTTYPE, None),
        (tarfile.DIRTYPE, None),
    ],
)
def test_links_and_devices_are_passed_over_and_said(tmp_path: Path, kind: bytes, words: str | None) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member(archive, "a.txt", b"a")
        member(archive, "b.txt", kind=kind)
        member(archive, "c.txt", b"c")
    table = open_table(tmp_path / "x.tar")
    assert [row["txt"] for row in all_rows(table) if row["txt"]] == ["a", "c"]
    assert bool(table.remarks) == (words is not None)
    assert words is None or words in table.remarks[0]


def test_names_that_lead_out_are_only_names(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("/etc/passwd.txt", "../../b.txt", "c\x1b[2J.txt"):
            member(archive, name, name.encode())
    table = open_table(tmp_path / "x.tar")
    assert [row["txt"] for row in all_rows(table)] == ["/etc/passwd.txt", "../../b.txt", "c\x1b[2J.txt"]
    assert "\x1b" not in table.place(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar"]


def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("a.txt", "a.cls", "a.TXT"):
            member(archive, name)
    assert "twice" in refused(tmp_path / "x.tar")


@pytest.mark.parametrize("content", [bytes(10240), b"\0" * 512, b"text\n" * 400, b"x" * 511, bytes(100) + b"x" * 5000])
def test_an_archive_of_nothing_or_of_other_bytes_is_refused(tmp_path: Path, content: bytes) -> None:
    found = read_or_refused(write(tmp_path / "x.tar", content))
    assert isinstance(found, EngineError)
    assert found.code in ("invalid-data", "empty-data")
    assert "x.tar" in found.message


def test_an_archive_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar")
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset_data + 512
    for cut in [*random.Random(0).choices(range(1, end), k=60), *range(512, end + 1, 512)]:
        found = read_or_refused(write(path, content[:cut]))
        assert isinstance(found, EngineError), cut
        assert "x.tar" in found.message


def test_damaged_bytes_are_refused_or_give_other_values(tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar")
    content, chance = path.read_bytes(), random.Random(1)
    for _ in range(100):
        damaged = bytearray(content)
        for place in chance.choices(range(len(content)), k=20):
            damaged[place] = chance.choice([0, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        found = read_or_refused(write(path, bytes(damaged)))
        assert not isinstance(found, EngineError) or "x.tar" in found.message


def test_a_name_longer_than_the_memory_is_refused(tmp_path: Path) -> None:
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = kind, 5 << 30
        path = write(tmp_path / "x.tar", info.tobuf(tarfile.GNU_FORMAT))
        with path.open("r+b") as file:
            file.truncate(6 << 30)
        assert "at most" in refused(path)


def test_an_archive_of_other_files_than_rows_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for number in range(200):
            member(archive, f"checkpoint.{number}.bin")
    assert "suffixes" in refused(tmp_path / "x.tar")

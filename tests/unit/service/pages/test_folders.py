"""The folder browser shows what is inside the roots, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ladle_contracts.roots import PathNotAllowed
from ladle_service.pages import folders
from ladle_service.pages.folders import list_folder, moment, roots_there


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


def names(root: Path, path: Path | None = None, **options: object) -> list[str]:
    return [entry.name for entry in list_folder(str(path or root), [root], **options).entries]  # type: ignore[arg-type]


def test_folders_come_first_and_numbers_are_in_order(root: Path) -> None:
    for name in ("step-10", "step-2", "Step-1"):
        (root / name).mkdir()
    (root / "a.txt").write_text("12345")
    listing = list_folder(str(root), [root])
    assert [entry.name for entry in listing.entries] == ["Step-1", "step-2", "step-10", "a.txt"]
    assert [entry.is_folder for entry in listing.entries] == [True, True, True, False]
    assert listing.entries[-1].size_bytes == 5
    assert listing.entries[1].path == str(root / "step-2")
    assert listing.above == ((str(root), str(root)),)


def test_hidden_files_pipes_and_links_that_lead_out_are_left_out(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (root / ".hidden").mkdir()
    (root / "inside").mkdir()
    (root / "latest").symlink_to("inside")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "broken").symlink_to("nowhere")
    (root / "itself").symlink_to("itself")
    os.mkfifo(root / "pipe")
    assert names(root) == ["inside", "latest"]


@pytest.mark.parametrize(
    "path", ["", "relative", "/", "/etc", "{root}/..", "{root}/out", "{root}/missing", "{root}/\0"]
)
def test_what_is_outside_is_as_what_is_missing(root: Path, tmp_path: Path, path: str) -> None:
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(PathNotAllowed):
        list_folder(path.format(root=root), [root])


def test_a_link_is_shown_as_the_place_that_it_leads_to(root: Path, tmp_path: Path) -> None:
    (root / "real").mkdir()
    (tmp_path / "link").symlink_to(root)
    listing = list_folder(str(tmp_path / "link" / "real"), [tmp_path / "link"])
    assert listing.path == str(root / "real")
    assert listing.above == ((str(root), str(root)), ("real", str(root / "real")))


def test_of_a_file_its_folder_is_shown(root: Path) -> None:
    (root / "a").write_text("")
    assert list_folder(str(root / "a"), [root]).path == str(root)


def test_thousands_of_entries_come_in_pages(root: Path) -> None:
    for number in range(folders.PAGE * 2 + 3):
        (root / f"f{number}").touch()
    assert names(root)[:3] == ["f0", "f1", "f2"]
    last = list_folder(str(root), [root], page=3)
    assert ([entry.name for entry in last.entries], last.pages, last.total) == (["f200", "f201", "f202"], 3, 203)
    assert list_folder(str(root), [root], page=99).page == 3
    assert names(root, wanted="F20") == ["f20", "f200", "f201", "f202"]


def test_of_a_huge_folder_a_part_is_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MOST", 3)
    for number in range(4):
        (root / f"f{number}").touch()
    listing = list_folder(str(root), [root])
    assert (listing.total, listing.is_cut) == (3, True)


def test_names_that_a_form_cannot_send_are_shown_and_cannot_be_chosen(root: Path) -> None:
    for name in (b"two\nlines", b"not-utf8-\xff", b"blank ", b"<img src=x onerror=alert(1)>"):
        (root / os.fsdecode(name)).mkdir()
    found = {entry.name: entry.path for entry in list_folder(str(root), [root]).entries}
    hostile = "<img src=x onerror=alert(1)>"
    assert found == {r"two\nlines": None, r"not-utf8-\udcff": None, "blank ": None, hostile: str(root / hostile)}


def test_which_roots_are_there(root: Path, tmp_path: Path) -> None:
    assert roots_there([root, tmp_path / "missing"]) == {root: True, tmp_path / "missing": False}


@pytest.mark.parametrize(("seconds", "year"), [(0.0, 1970), (1e12, 9999), (1e300, 9999), (-1e12, 1), (-5.0, 1969)])
def test_a_file_of_a_year_that_no_calendar_has_is_shown_too(seconds: float, year: int) -> None:
    assert moment(seconds).year == year

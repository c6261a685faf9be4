"""`ladle task new`: a plug-in that works as it is written, and nothing is overwritten."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ladle.cli import app as command
from tests.polling import DEADLINE_S


def ladle(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code, and what was written to both streams."""
    monkeypatch.setattr(sys, "argv", ["ladle", *arguments])
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as ended:
        command.main()
        raise SystemExit(0)
    written = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((written.out + written.err).replace("│", " ").split())


@pytest.mark.slow
def test_the_plug_in_passes_its_own_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = ladle(["task", "new", "wine-quality"], monkeypatch, capsys)
    assert code == 0
    for words in (
        "ladle_wine_quality/__init__.py",
        "pip install -e .",
        "--task wine-quality",
    ):
        assert words in text
    folder = tmp_path / "wine-quality"
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["ladle.tasks"] == {"wine-quality": "ladle_wine_quality:WineQualityTask"}
    left = [path.name for path in folder.rglob("*") if "$" in path.name or path.suffix == ".template"]
    assert not left
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=folder, capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("mine", "link"):
        code, text = ladle(["task", "new", name], monkeypatch, capsys)
        assert code == 1
        assert f"`{name}` must not exist, but does." in text
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link", "mine", "notes.txt"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Wine Quality", "but is 'Wine Quality'. Try `wine-quality`."),
        ("wine_quality", "Try `wine-quality`."),
        ("../wine", "but is '../wine'. Try `wine`."),
        ("", "but is ''."),
        ("w" * 51, "at most 50 characters"),
        ("2d", "Try `d`."),
        ("engine", "must not be one of engine, worker, service, contracts"),
        ("image-classification", "but a task `image-classification` is installed already"),
    ],
)
def test_a_name_must_be_good_for_a_task_a_package_and_a_folder(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = ladle(["task", "new", "--", name], monkeypatch, capsys)
    assert code == 2
    assert words in text
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    code, text = ladle(["task", "new", "wine"], monkeypatch, capsys)
    assert (code, text) == (1, "`wine` cannot be written: Read-only file system.")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", "simple", "tensor", "f", "task", "a-1"])
def test_no_name_of_a_class_hides_what_the_plug_in_imports(name: str, tmp_path: Path) -> None:
    from ladle.cli.task import package_of, write_plug_in

    write_plug_in(tmp_path / name, name)
    done = subprocess.run(
        [sys.executable, "-c", f"import {package_of(name)} as made; print(made.FromDataset, made.F)"],
        cwd=tmp_path / name, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

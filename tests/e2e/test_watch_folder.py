"""`ladle watch-folder` beside a training that writes, cuts off, deletes and goes away, through a stack of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save

from tests.builders import CONFIG, make_val_set, trained_states
from tests.e2e.test_whole import LADLE, Terminal, environment, gone
from tests.polling import DEADLINE_S, until

pytestmark = pytest.mark.slow

QUICK = ("--look-every", "0.3", "--method", "uniform")
STATES = trained_states(5, False, 0, 4)


class Training:
    """Writes the checkpoints of a run one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self) -> None:
        self.folder.mkdir()
        config = {"ladle_task": "small-cnn", **CONFIG, "width": 4, "batch_norm": False}
        (self.folder / "config.json").write_text(json.dumps(config))

    def write(self, number: int, *, half: bool = False) -> Path:
        data = save(STATES[number - 1])
        path = self.folder / f"epoch-{number}.safetensors"
        path.write_bytes(data[: len(data) // 2] if half else data)
        return path


class Watching:
    """The command as a program with `--json`: its points, as they come."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self._out, self._err = home / "points.jsonl", home / "words.txt"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [LADLE, "watch-folder", "checkpoints", "val.npz", *QUICK, "--json", *arguments],
                cwd=home, env=environment(home), stdout=out, stderr=err,
            )  # fmt: skip

    def points(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._out.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def until_points(self, count: int) -> dict[str, Any]:
        """The newest point, when there are so many."""
        until(lambda: len(self.points()) >= count or self.ended(), what=f"{count} points: {self.words()}")
        assert len(self.points()) == count, self.words()
        return self.points()[-1]

    def until_words(self, words: str) -> None:
        until(lambda: words in self.words() or self.ended(), what=words)
        assert words in self.words()

    def words(self) -> str:
        return self._err.read_text()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> int:
        return self.process.wait(DEADLINE_S)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_val_set(tmp_path / "val.npz")
    return tmp_path


@pytest.fixture
def training(home: Path) -> Training:
    return Training(home / "checkpoints")


@pytest.fixture
def started() -> Iterator[list[Watching]]:
    started: list[Watching] = []
    yield started
    for each in started:
        if not each.ended():
            each.process.terminate()
            each.end()


def results(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if (path / "report.json").exists()}


def taken(point: dict[str, Any]) -> Sequence[str]:
    return [name.removesuffix(".safetensors").removeprefix("epoch-") for name in point["taken"]]


def test_a_curve_grows_while_a_training_writes_and_goes_on_after_a_restart(
    home: Path, training: Training, started: list[Watching]
) -> None:
    watching = Watching(home, "--results", "curve")
    started.append(watching)
    watching.until_words("Waiting for checkpoints")
    training.begin()
    training.write(1)
    training.write(2)
    first = watching.until_points(1)
    assert (taken(first), first["step"], first["checkpoints"]) == (["1", "2"], 2, 2)
    training.write(3, half=True)
    training.write(4)
    second = watching.until_points(2)
    assert (taken(second), second["step"]) == (["1", "2", "4"], 4), "the third is half there"
    watching.until_words("Left out: `epoch-3.safetensors`")
    (training.folder / "epoch-1.safetensors").unlink()
    training.write(3)
    third = watching.until_points(3)
    assert (taken(third), third["step"]) == (["2", "3", "4"], 4)
    curve = [json.loads(line) for line in (home / "curve/curve.jsonl").read_text().splitlines()]
    assert curve == watching.points()
    best = max(reversed(curve), key=lambda point: point["average"])
    assert results(home / "curve") == {Path(point["folder"]).name for point in (best, third)}
    report = json.loads((Path(third["folder"]) / "report.json").read_text())
    assert [row["name"] for row in report["checkpoints"]] == list(third["taken"])
    assert third["last"] == report["checkpoints"][-1]["select"]["means"]["accuracy"]
    assert load_file(Path(third["folder"]) / "model.safetensors").keys() == STATES[0].keys()
    watching.process.terminate()
    assert watching.end() == 130
    assert f"Newest average: {third['folder']}" in watching.words()

    training.write(5)
    again = Watching(home, "--results", "curve", "--every", "2", "--stop-after-idle", "0.1")
    started.append(again)
    assert again.end() == 0, again.words()
    assert "It continues the curve of 3 averages" in again.words()
    (last,) = again.points()
    assert taken(last) == ["2", "3", "4", "5"], "one is new, which only the end makes an average of"
    assert len((home / "curve/curve.jsonl").read_text().splitlines()) == 4
    assert "</svg>" in (home / "curve/curve.svg").read_text()


def test_ctrl_c_cancels_the_job_and_says_where_everything_is(home: Path, training: Training) -> None:
    training.begin()
    for number in (1, 2, 3):
        training.write(number)
    terminal = Terminal(
        home, "watch-folder", "checkpoints", "val.npz", "--look-every", "0.3", "--method", "twa",
        "--method-option", "steps=100000",
    )  # fmt: skip
    terminal.until(b"loss")
    terminal.press(b"\x03")
    assert terminal.end() == 130, terminal.text()
    assert "No average was made" in terminal.text()
    until(gone(terminal.started), what="every process to be gone")
    (folder,) = (home / "ladle-results").iterdir()
    assert not results(folder)

"""What waiting does not mend is refused before the watch begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ladle.cli.app import app
from ladle.cli.watch_checks import sole_watch
from ladle.curve import CURVE_FILE, CurvePoint, append


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LADLE_URL", raising=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "val.npz").touch()


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["watch-folder", *arguments])
    assert done.exit_code == 2, done.output
    return " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "nowhere.npz"), "`nowhere.npz` must exist, but does not"),
        (("run", "val.npz", "--train-set", "nowhere"), "`nowhere` must exist, but does not"),
        (("no/such", "val.npz"), "must be in a folder that exists"),
        (("val.npz", "val.npz"), "must be a folder, but `val.npz` is a file"),
        (("ru*", "val.npz"), "must be one folder, but is the glob `ru*`"),
        (("s3://bucket/run", "val.npz"), "must be a folder on this machine"),
        (("run", "val.npz", "--also", "more"), "watches one folder"),
        (("run", "val.npz", "--name", "mine"), "a watch makes several"),
        (("run", "val.npz", "--results", "run/averages"), "must be outside of `CKPT_DIR`"),
        (("run", "val.npz", "--results", "val.npz"), "must be a folder that can be written"),
        (("run", "val.npz", "--every", "0"), "must be a whole number of at least 1"),
        (("run", "val.npz", "--stop-after-idle", "soon"), "must be a number above 0"),
        (("run", "val.npz", "--look-every", "nan"), "must be a number above 0"),
        (("run", "val.npz", "--select-fraction", "2"), "must be below 1"),
    ],
)
def test_wrong_input_is_refused_at_once(arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(*arguments)
    assert not Path("ladle-results").exists()


def test_a_method_that_does_not_exist_is_refused_though_the_first_checkpoint_may_be_hours_away() -> None:
    assert "`--method` must be one of auto, best," in refused("run", "val.npz", "--method", "unifrm")


def test_the_curve_of_another_folder_is_not_continued(tmp_path: Path) -> None:
    point = CurvePoint(
        step=1, checkpoints=2, metric="accuracy", average=0.5, best=0.4, last=0.4, folder="/r", job_id="j",
        ckpt_dir="/other/run",
    )  # fmt: skip
    append(tmp_path / "curve" / CURVE_FILE, point)
    assert "is the curve of `/other/run`" in refused("run", "val.npz", "--results", "curve")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / CURVE_FILE).write_text('{"loss": 1}\n')
    assert "line 1 is not a point" in refused("run", "val.npz", "--results", "mine")
    append(tmp_path / "again" / CURVE_FILE, replace(point, ckpt_dir=str(tmp_path / "run")))
    with sole_watch(tmp_path / "again"):
        assert "Another `ladle watch-folder` is writing" in refused("run", "val.npz", "--results", "again")

"""A merge curve of a run that has grown takes what the earlier curve knows, and has the same bits as one made anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import nn

from ladle_engine import DataError, curve
from ladle_engine import progress as events
from ladle_engine.evaluation import statistics_choice
from tests.unit.engine.test_curve import CountingTask
from tests.unit.engine.toy import norm_net, plain_net, write_checkpoints

FILES = ("curve.json", "coefficients.json", "evaluations.safetensors")
BEFORE, IN_ALL = 6, 9


class Run:
    """A run whose last checkpoints come later."""

    def __init__(self, root: Path, net: Callable[[], nn.Module] = plain_net) -> None:
        self.root, self.net = root, net
        self.folder, self.data = root / "run", root / "val"
        self.data.touch()
        write_checkpoints(self.folder, net, count=IN_ALL)
        self.told: list[str] = []
        with self.shorter():
            self.evaluated_before = self.drawn("before")

    @contextmanager
    def shorter(self) -> Iterator[None]:
        """Inside, the run is what it was."""
        hidden = [self.folder / f"step-{number}.safetensors" for number in range(BEFORE, IN_ALL)]
        for path in hidden:
            path.rename(self.root / path.name)
        yield
        for path in hidden:
            (self.root / path.name).rename(path)

    def drawn(self, name: str, earlier: str | None = None, **options: Any) -> int:
        """How many batches were evaluated."""
        task = CountingTask(self.net, count=128, batch_size=32)
        self.told = []

        def listen(event: events.ProgressEvent) -> None:
            if isinstance(event, events.Warned):
                self.told.append(event.message)

        curve(
            self.folder, self.data, output=self.root / name, task=task, progress=listen,
            earlier=None if earlier is None else self.root / earlier, **options,
        )  # fmt: skip
        return task.evaluated

    def report(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / name / "report.json").read_text())
        return found

    def are_alike(self, one: str, other: str) -> bool:
        files = [*FILES, *(["statistics.safetensors"] if self.net is norm_net else [])]
        return all((self.root / one / file).read_bytes() == (self.root / other / file).read_bytes() for file in files)


@pytest.mark.parametrize(("net", "statistics"), [(plain_net, "none"), (norm_net, "recomputed"), (norm_net, "averaged")])
def test_a_run_that_has_grown_has_the_same_bits_and_evaluates_the_new_points_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: Callable[[], nn.Module], statistics: str
) -> None:
    monkeypatch.setattr(statistics_choice, "lowest", lambda losses: statistics)
    run = Run(tmp_path, net)
    assert run.report("before")["statistics"]["mixtures"] == statistics
    anew = run.drawn("anew")
    grown = run.drawn("grown", earlier="before")
    assert run.are_alike("grown", "anew")
    # With all points known, what is left belongs to no point: the first batch, the trial, the statistics' choice.
    besides = run.drawn("again", earlier="grown")
    assert run.are_alike("again", "anew")
    assert grown == anew - (run.evaluated_before - besides)
    known = {name: run.report(name)["evaluated"] for name in ("before", "anew", "grown", "again")}
    assert "earlier" not in known["anew"]
    assert known["grown"]["earlier"]["models"] == known["before"]["models"] < known["grown"]["models"]
    assert known["again"]["earlier"]["models"] == known["grown"]["models"] == known["anew"]["models"]
    told = f"What {known['before']['models']} of {known['grown']['models']} models are worth is from"
    assert told in (tmp_path / "grown/report.html").read_text()


def test_what_was_made_of_a_checkpoint_that_has_changed_is_evaluated_anew(tmp_path: Path) -> None:
    run = Run(tmp_path)
    changed = run.folder / "step-3.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(changed).items()}, changed)
    # At other points besides.
    anew, grown = run.drawn("anew", every=2), run.drawn("grown", earlier="before", every=2)
    assert run.are_alike("grown", "anew")
    assert grown < anew, "what ends before it, and what begins after it, is still the same"
    taken = run.report("grown")["evaluated"]["earlier"]["models"]
    assert 0 < taken < run.report("before")["evaluated"]["models"]


def test_of_a_curve_with_other_settings_nothing_is_taken_and_it_is_told_why(tmp_path: Path) -> None:
    run = Run(tmp_path)
    options: dict[str, Any] = {"seed": 1, "windows": 2, "shapes": ["linear"]}
    anew = run.drawn("anew", **options)
    assert run.drawn("other", earlier="before", **options) == anew
    assert run.are_alike("other", "anew")
    (warning,) = [each for each in run.told if "earlier curve" in each]
    assert warning.endswith("otherwise: `curve_shapes`, `curve_windows`, `seed`. All is evaluated anew.")


def test_what_is_no_curve_or_not_as_it_was_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    run = Run(tmp_path)

    def refused(earlier: str) -> str:
        with pytest.raises(DataError, match="`curve_earlier=` must be the result folder of a curve") as caught:
            run.drawn("out", earlier=earlier)
        assert caught.value.code == "invalid-data"
        assert not (tmp_path / "out").exists()
        return caught.value.message

    assert "cannot be read as one" in refused("absent")
    path = tmp_path / "before/evaluations.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert "is not the one of its `curve.json`" in refused("before")
    (tmp_path / "before/curve.json").write_text("{}")
    assert "has the `curve.json` of something else" in refused("before")

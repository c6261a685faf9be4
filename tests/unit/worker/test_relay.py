"""What the ranks write on its way to Redis: whole lines, once, in order, whatever happens in between."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from ladle_contracts import CandidateResult, CandidateScored, Progress, SetResult, StageStarted, StepDone, Warned
from ladle_worker import relay as module
from ladle_worker.job_folder import AttemptFolder
from ladle_worker.relay import Relay, TailedFile, advance, log_tail


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_only_whole_lines_are_read_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tailed = TailedFile(path)
    assert tailed.read() == []
    append(path, "one\ntw")
    assert tailed.read() == ["one"]
    assert tailed.read() == ["one"], "until it is kept"
    tailed.keep()
    assert tailed.read() == []
    append(path, "o\nthree")
    assert tailed.read() == ["two"]
    tailed.keep()
    assert tailed.read(to_end=True) == ["three"]


def test_a_line_without_end_is_cut_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 10)
    path = tmp_path / "log"
    path.write_text("x" * 25 + "\nend\n")
    tailed = TailedFile(path)
    parts = []
    while lines := tailed.read():
        parts += lines
        tailed.keep()
    assert "".join(parts) == "x" * 25 + "end"


def test_bytes_that_are_no_text_do_not_stop_the_relay(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\xff\xfe\n")
    assert len(TailedFile(path).read()) == 1


Counts = Mapping[str, float]


class FakeClaim:
    def __init__(self) -> None:
        self.reports: list[tuple[int, Progress | None, list[str], list[str]]] = []
        self.counts: list[dict[str, float]] = []
        self.counts: list[dict[str, float]] = []
        self.away = False

    def report(
        self, offset: int, progress: Progress | None, bodies: Sequence[str], lines: Sequence[str], counted: Counts
    ) -> None:
        if self.away:
            raise ConnectionError("away")
        self.counts.append(dict(counted))
        self.reports.append((offset, progress, list(bodies), list(lines)))


def make(tmp_path: Path) -> tuple[AttemptFolder, FakeClaim, Relay]:
    folder, claim = AttemptFolder(tmp_path), FakeClaim()
    faked: Any = claim
    return folder, claim, Relay(folder, faked)


def test_what_redis_did_not_take_is_sent_again_as_it_was_and_only_then_what_came_since(tmp_path: Path) -> None:
    """It may have arrived though the answer did not: a repetition is told by its offset, so it must be the same."""
    folder, claim, relay = make(tmp_path)
    append(folder.events, Warned(message="first").model_dump_json() + "\n")
    claim.away = True
    for _ in range(2):
        with pytest.raises(ConnectionError):
            relay.send()
        append(folder.events, StepDone(stage="train", method="twa", step=1, total=9, loss=0.5).model_dump_json() + "\n")
        append(folder.log, "hello\n")
    claim.away = False
    assert relay.send()
    assert relay.send()
    assert not relay.send(), "nothing new"
    first, second = claim.reports
    assert ["first" in body for body in first[2]] == [True]
    assert first[3] == []
    assert ["twa" in body for body in second[2]] == [True, True]
    assert second[3] == ["hello", "hello"]
    assert second[1] is not None
    assert (second[1].step, second[1].loss) == (1, 0.5)
    assert second[0] > first[0], "each report has a larger offset than the one before"


def test_characters_that_some_call_line_ends_are_part_of_their_line(tmp_path: Path) -> None:
    folder, claim, relay = make(tmp_path)
    append(folder.events, Warned(message="one\u2028two\u0085three").model_dump_json() + "\n")
    append(folder.log, "one\u2028two\r\n\nthree\n")
    relay.send()
    ((_, _, bodies, lines),) = claim.reports
    assert len(bodies) == 1
    assert lines == ["one\u2028two", "", "three"]


def test_long_lines_are_cut(tmp_path: Path) -> None:
    folder, claim, relay = make(tmp_path)
    append(folder.log, "y" * 5000 + "\n")
    relay.send()
    assert claim.reports[0][3] == ["y" * module.MAX_LINE_CHARS]


def scored(method: str, gain: float) -> CandidateScored:
    candidate = CandidateResult(method=method, label=method, select={}, fit={}, gain=gain, gain_low=0, gain_high=1)
    return CandidateScored(candidate=candidate)


def test_the_snapshot_keeps_candidates_over_stages_and_replaces_one_that_is_scored_again() -> None:
    progress = advance(
        Progress(),
        [
            StageStarted(stage="train", method="twa", total=10),
            StepDone(stage="train", method="twa", step=3, total=10, loss=1.5, eta_s=4.0),
            scored("uniform", 0.1),
            scored("twa", 0.2),
            scored("uniform", 0.3),
            StageStarted(stage="write", total=2),
        ],
    )
    assert (progress.stage, progress.stage_total, progress.method, progress.loss) == ("write", 2, None, None)
    assert [(candidate.method, candidate.gain) for candidate in progress.candidates] == [("twa", 0.2), ("uniform", 0.3)]


def test_the_tail_is_the_last_lines(tmp_path: Path) -> None:
    folder = AttemptFolder(tmp_path)
    assert log_tail(folder) == []
    folder.log.write_text("\n".join(str(number) for number in range(100)))
    assert log_tail(folder) == [str(number) for number in range(60, 100)]


def test_a_score_that_is_no_number_leaves_a_record_that_can_be_read() -> None:
    good = CandidateResult(method="twa", label="twa", select={"loss": 0.5}, gain=0.1)
    on_set = SetResult(select={"loss": math.nan}, gain=0.1, gain_low=0.1, gain_high=0.1)
    bad = (
        CandidateResult(method="ema", label="ema", select={"loss": math.nan}),
        CandidateResult(method="ema", label="ema", select={"loss": 0.5}, fit={"loss": math.inf}),
        CandidateResult(method="ema", label="ema", select={"loss": 0.5}, gain=math.nan),
        CandidateResult(method="ema", label="ema", select={"loss": 0.5}, sets={"a": on_set}),
    )
    progress = advance(Progress(), [CandidateScored(candidate=each) for each in (good, *bad)])
    assert Progress.model_validate_json(progress.model_dump_json()).candidates == (good,)

"""Parts of a stack that end are started again, with growing pauses, and given up when they end again and again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from ladle._errors import LadleError
from ladle.cli import supervision
from ladle.cli.supervision import Restarts, ended


@dataclass
class Parts:
    """Two programs that end when the test says, and a clock that the test moves."""

    now: float = 0.0
    said: list[str] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)

    def start_again(self, name: str) -> None:
        self.started.append(name)
        self.processes[name] = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def why_ended(self, name: str) -> LadleError:
        return LadleError(f"the log of the {name}")

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].communicate()

    def wait(self, restarts: Restarts, seconds: float) -> None:
        self.now += seconds
        restarts.look()


@pytest.fixture
def parts() -> Parts:
    made = Parts()
    made.start_again("worker")
    made.start_again("service")
    made.started.clear()
    return made


@pytest.fixture
def restarts(parts: Parts) -> Restarts:
    return Restarts(parts, parts.said.append, lambda: parts.now)


@pytest.fixture(autouse=True)
def _ended(parts: Parts) -> object:
    yield
    for name in parts.processes:
        parts.kill(name)


def test_a_part_that_was_killed_is_started_again_and_the_others_are_left_alone(
    parts: Parts, restarts: Restarts
) -> None:
    restarts.look()
    assert not parts.said
    parts.kill("worker")
    restarts.look()
    assert parts.said == ["The worker was ended by SIGKILL. It is started again in 1 s."]
    parts.wait(restarts, 0.5)
    assert not parts.started
    parts.wait(restarts, 0.5)
    assert parts.started == ["worker"]
    assert parts.said[1:] == [f"The worker runs again (pid {parts.processes['worker'].pid})."]
    parts.wait(restarts, 100)
    assert len(parts.said) == 2


def test_the_pause_doubles_and_a_part_that_ends_too_often_is_given_up_with_its_log(
    parts: Parts, restarts: Restarts
) -> None:
    for pause_s in (1, 2, 4, 8, 16):
        parts.kill("service")
        restarts.look()
        assert parts.said[-1].endswith(f"again in {pause_s} s.")
        parts.wait(restarts, pause_s)
        assert parts.processes["service"].poll() is None
    parts.kill("service")
    with pytest.raises(LadleError, match="the log of the service"):
        restarts.look()


def test_ends_that_are_long_ago_do_not_count(parts: Parts, restarts: Restarts) -> None:
    for _ in range(2 * supervision.MOST_ENDS):
        parts.kill("worker")
        restarts.look()
        assert parts.said[-1].endswith("again in 1 s.")
        parts.wait(restarts, 1)
        parts.wait(restarts, supervision.WINDOW_S)


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "ended with status 0"), (3, "ended with status 3"), (-9, "was ended by SIGKILL"), (-99, "by signal 99")],
)
def test_the_end_of_a_part_is_put_in_words(status: int, words: str) -> None:
    assert words in ended(status)

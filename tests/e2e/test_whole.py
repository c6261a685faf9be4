"""As a person uses it: the command on a terminal, the stack in one process and a client in another, the demo."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from ladle_contracts.output_names import ID_CHARS
from tests.builders import make_checkpoints, make_val_set
from tests.polling import DEADLINE_S, until
from tests.servers import is_alive

REPOSITORY = Path(__file__).parents[2]
LADLE = str(Path(sys.executable).parent / "ladle")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with checkpoints and a validation set; `ladle` keeps its state below it."""
    make_checkpoints(tmp_path / "checkpoints", count=6)
    make_val_set(tmp_path / "val.npz")
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LADLE_", "REDIS_"))}
    # A unix socket's path is short, and pytest's folders are not.
    return kept | {"XDG_STATE_HOME": str(home / "s"), "TMPDIR": "/tmp", "TERM": "xterm-256color", "COLUMNS": "110"}


class Terminal:
    """A program on a terminal of its own: what it shows, and keys."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.shown = b""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(home)
            os.execve(LADLE, ["ladle", *arguments], environment(home))
        self.started: set[psutil.Process] = set()

    def until(self, words: bytes, timeout_s: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while words not in self.shown:
            assert time.monotonic() < deadline, self.text()
            assert self._read(), self.text()

    def _read(self) -> bool:
        """Takes what there is; False when the program has ended."""
        self.started |= set(psutil.Process(self.pid).children(recursive=True))
        ready, _, _ = select.select([self._terminal], [], [], 0.2)
        if not ready:
            return True
        try:
            part = os.read(self._terminal, 65536)
        except OSError:
            return False
        self.shown += part
        return bool(part)

    def press(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def end(self, timeout_s: float = DEADLINE_S) -> int:
        """The exit status."""
        deadline = time.monotonic() + timeout_s
        while self._read():
            assert time.monotonic() < deadline, self.text()
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown.decode(errors="replace"))


def gone(processes: Iterable[psutil.Process]) -> Callable[[], bool]:
    return lambda: not any(is_alive(process) for process in processes)


@pytest.mark.slow
def test_run_shows_the_job_live_and_leaves_a_model_and_no_process(home: Path) -> None:
    # Long enough to be seen: a view that comes late to a job of two seconds shows its end alone.
    longer = ("--method-option", 'options={"twa": {"steps": 1000}}')
    terminal = Terminal(home, "run", "checkpoints", "val.npz", "--name", "mine", "--task", "small-cnn", *longer)
    status = terminal.end()
    text = terminal.text()
    assert status == 0, text
    for words in ("choosing coefficients", "twa-layerwise", "against best", "Model:"):
        assert words in text, words
    model = load_file(home / "ladle-results" / "mine" / "model.safetensors")
    assert model.keys() == load_file(home / "checkpoints" / "epoch-1.safetensors").keys()
    assert len(terminal.started) >= 3, "Redis, the service and the worker"
    until(gone(terminal.started), what="the stack to be gone")


@pytest.mark.slow
def test_run_goes_on_when_its_worker_is_killed(home: Path) -> None:
    terminal = Terminal(home, "run", "checkpoints", "val.npz", "--method", "twa", "--method-option", "steps=1000")
    terminal.until(b"loss")
    (worker,) = (
        process for process in psutil.Process(terminal.pid).children() if "ladle_worker" in " ".join(process.cmdline())
    )
    worker.kill()
    status = terminal.end()
    assert status == 0, terminal.text()
    for words in ("The worker was ended by SIGKILL", "The worker runs again", "Model:"):
        assert words in terminal.text(), words
    until(gone(terminal.started), what="the stack to be gone")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ctrl-c", "terminate", "kill"])
def test_run_leaves_no_process_however_it_ends(home: Path, how: str) -> None:
    terminal = Terminal(
        home, "run", "checkpoints", "val.npz", "--method", "twa", "--method-option", "steps=100000"
    )  # fmt: skip
    terminal.until(b"loss")
    alive = [process for process in terminal.started if is_alive(process)]
    ranks = [process for process in alive if "ladle_worker.rank" in " ".join(process.cmdline())]
    assert ranks, "the job is at work"
    if how == "ctrl-c":
        terminal.press(b"\x03")
    else:
        os.kill(terminal.pid, signal.SIGTERM if how == "terminate" else signal.SIGKILL)
    status = terminal.end()
    assert status == (-signal.SIGKILL if how == "kill" else 130), terminal.text()
    if how != "kill":
        assert "was cancelled" in terminal.text()
    until(gone(terminal.started), what="every process to be gone")
    left = [path.name for path in (home / "ladle-results").iterdir()]
    assert not [name for name in left if not name.startswith(".")], "no result"
    if how != "kill":  # otherwise nobody is left who could clear up
        assert left == [".ladle"], "no staging folder"


@pytest.fixture
def up(home: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [LADLE, "up", "--port", "0"], cwd=home, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "find it by themselves" in line:
            break
    assert process.poll() is None, "".join(lines)
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_a_stack_in_one_process_serves_python_and_the_command_in_another(home: Path, up: subprocess.Popen[str]) -> None:
    started = psutil.Process(up.pid).children(recursive=True)
    script = 'from ladle import submit\nprint(submit("checkpoints", "val.npz", method="uniform").result().folder)'
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=home, env=environment(home), capture_output=True, text=True,
        timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.parent == home / "ladle-results"
    assert (folder / "model.safetensors").is_file()

    def ladle(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LADLE, *arguments], cwd=home, env=environment(home), capture_output=True, text=True,
            timeout=DEADLINE_S,
            check=False,
        )  # fmt: skip

    # The name ends with the beginning of the job's id, which stands in the first column.
    assert re.search(rf"^{folder.name.rpartition('-')[2]}", ladle("list").stdout, re.MULTILINE)
    assert "twa-layerwise" in ladle("methods").stdout
    assert "small-cnn" in ladle("tasks").stdout
    assert "ok  nodes  1 ready" in ladle("doctor").stdout
    second = ladle("up")
    assert second.returncode == 1
    assert f"kill {up.pid}" in " ".join(second.stderr.split())
    job = ladle("submit", "checkpoints", "val.npz", "--method", "twa", "--method-option", "steps=100000").stdout.strip()
    until(lambda: "stage  train" in re.sub(r" +", "  ", ladle("status", job).stdout), what="training")
    assert ladle("cancel", job).returncode == 0
    assert ladle("watch", job).returncode == 130

    up.terminate()
    assert up.wait(timeout=DEADLINE_S) == 0
    until(gone(started), what="the stack to be gone")
    without = ladle("list")
    assert without.returncode == 1
    assert "ladle up" in without.stderr


def result_of(job: str, home: Path) -> Path:
    """The model of a job that did not name its result: the folder's name ends with the beginning of its id."""
    (folder,) = (home / "ladle-results").glob(f"*-{job[:ID_CHARS]}")
    return folder / "model.safetensors"


@pytest.mark.slow
def test_a_stack_that_is_killed_leaves_no_process_and_the_next_one_goes_on_with_its_jobs(
    home: Path, up: subprocess.Popen[str]
) -> None:
    started = psutil.Process(up.pid).children(recursive=True)
    submit = [LADLE, "submit", "checkpoints", "val.npz", "--method", "twa", "--method-option", "steps=400"]
    job = subprocess.run(
        submit, cwd=home, env=environment(home), capture_output=True, text=True, check=True
    ).stdout.strip()
    up.kill()
    up.wait()
    until(gone(started), what="every process to be gone")
    with subprocess.Popen(
        [LADLE, "up", "--port", "0"], cwd=home, env=environment(home), stdout=subprocess.PIPE, text=True
    ) as again:
        try:
            assert again.stdout is not None
            assert any("find it by themselves" in line for line in again.stdout)
            done = subprocess.run(
                [LADLE, "watch", job], cwd=home, env=environment(home), capture_output=True, text=True,
                timeout=DEADLINE_S,
                check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            assert result_of(job, home).is_file()
        finally:
            again.terminate()


@pytest.mark.slow
def test_a_part_of_a_stack_that_is_killed_runs_again_and_jobs_go_on(home: Path, up: subprocess.Popen[str]) -> None:
    """Redis, the service and the worker, one after the other, while one job is at work."""
    started: list[psutil.Process] = []
    submit = [LADLE, "submit", "checkpoints", "val.npz", "--method", "twa", "--method-option", "steps=3000"]
    job = subprocess.run(
        submit, cwd=home, env=environment(home), capture_output=True, text=True, check=True
    ).stdout.strip()

    def part(name: str) -> psutil.Process | None:
        """A child of `ladle up`, not one of the worker's own."""
        words = {"redis": "unixsocket", "service": "ladle_service", "worker": "ladle_worker"}
        found = [each for each in psutil.Process(up.pid).children() if words[name] in " ".join(each.cmdline())]
        started.extend(found)
        return found[0] if found else None

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LADLE, *arguments], cwd=home, env=environment(home), capture_output=True, text=True,
            timeout=DEADLINE_S,
            check=False,
        )  # fmt: skip

    until(lambda: "running" in ask("status", job).stdout, what="the job to run")
    assert up.stdout is not None
    for name in ("redis", "service", "worker"):
        killed = part(name)
        assert killed is not None
        killed.kill()
        assert f"The {name} was ended by SIGKILL" in up.stdout.readline()
        assert f"The {name} runs again" in up.stdout.readline()
        again = part(name)
        assert again is not None
        assert again.pid != killed.pid
    done = ask("watch", job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result_of(job, home).is_file()
    up.terminate()
    assert up.wait(timeout=DEADLINE_S) == 0
    until(gone(started), what="the stack to be gone")


def test_the_demo_beats_its_checkpoints_or_says_that_it_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = [sys.executable, str(REPOSITORY / "examples" / "digits" / "demo.py"), "--folder", str(folder)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.replace("\n", " ")
    assert "beats the best checkpoint" in said or "does not beat" in said or "No average beat" in said
    assert re.search(r"twa-layerwise.*%.*%", done.stdout), "the table has both sets"
    assert (folder / "ladle-results" / "model" / "model.safetensors").is_file()
    assert len(list((folder / "checkpoints").glob("*.safetensors"))) == 18


@pytest.mark.slow
def test_the_demo_empties_no_folder_but_its_own(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / "digits" / "demo.py"), "--folder", str(tmp_path)],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "holds other files" in done.stderr
    assert (tmp_path / "precious.txt").read_text() == "mine"

"""What each protection keeps from a process, tried in children; and what happens where the kernel grants less."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from ladle_contracts.processes import end_with_parent
from ladle_worker.confinement import landlock, limits, probe
from ladle_worker.confinement.choose import CannotConfine, among_nodes, choose
from ladle_worker.confinement.plan import FILES, MEMORY, NETWORK, PORTS, PROCESSES, PROTECTIONS, Plan, readable
from ladle_worker.settings import Settings

NOBODY = 65534
GRANTED = dict.fromkeys(PROTECTIONS, "")

needs_landlock = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def needs(name: str) -> pytest.MarkDecorator:
    refusal = probe.probe()[name]
    return pytest.mark.skipif(bool(refusal), reason=f"{name}: {refusal}")


def in_a_child(attempt: Callable[[], object]) -> object:
    """What it returns, or the name of the error that it raises."""
    end, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = attempt()
        except BaseException as error:
            answer = type(error).__name__
        os.write(told, json.dumps(answer).encode())
        os._exit(0)
    os.close(told)
    with os.fdopen(end) as reader:
        answer = json.loads(reader.read())
    os.waitpid(child, 0)
    return answer


@needs_landlock
def test_only_what_is_listed_can_be_read_or_written(tmp_path: Path) -> None:
    for name in ("read", "write", "none"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "read" / "link").symlink_to(tmp_path / "none" / "file")

    def attempts() -> dict[str, str]:
        limits.give_up_privileges()
        landlock.restrict(
            landlock.Allowed(read=[str(tmp_path / "read")], write=[str(tmp_path / "write")], devices=["/dev/null"])
        )
        tried: dict[str, Callable[[], object]] = {
            "read": (tmp_path / "read" / "file").read_text,
            "write": lambda: (tmp_path / "write" / "file").write_text("new"),
            "rename": lambda: (tmp_path / "write" / "file").rename(tmp_path / "write" / "other") and "renamed",
            "null": lambda: Path("/dev/null").write_text("x"),
            "none": (tmp_path / "none" / "file").read_text,
            "list": lambda: list((tmp_path / "none").iterdir()),
            "link": (tmp_path / "read" / "link").read_text,
            "write what may be read": lambda: (tmp_path / "read" / "file").write_text("x"),
            "move out": lambda: (tmp_path / "write" / "other").rename(tmp_path / "none" / "other"),
            "signal": lambda: os.kill(os.getppid(), 0),
        }
        return {name: _outcome(attempt) for name, attempt in tried.items()}

    told = in_a_child(attempts)
    assert isinstance(told, dict)
    allowed = {name for name, outcome in told.items() if outcome == "ok"}
    assert allowed - {"signal"} == {"read", "write", "rename", "null"}
    assert ("signal" in allowed) == (landlock.version() < landlock.HAS_SCOPES)


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "ok"


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
@needs_landlock
def test_an_older_landlock_is_asked_only_for_what_it_knows(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version > landlock.version():
        pytest.skip("this kernel's is older")
    monkeypatch.setattr(landlock, "version", lambda: version)
    (tmp_path / "file").write_text("x")

    def attempt() -> str:
        limits.give_up_privileges()
        landlock.restrict(landlock.Allowed(read=["/usr"], write=[], devices=[], ports=range(40_000, 40_002)))
        return (tmp_path / "file").read_text()

    assert in_a_child(attempt) == "PermissionError"


@needs(NETWORK)
def test_a_network_of_its_own_reaches_itself_and_nothing_else() -> None:
    from ladle_worker.confinement.namespaces import enter

    with socket.create_server(("127.0.0.1", 0)) as outside:
        port = outside.getsockname()[1]

        def attempt() -> list[str]:
            enter(network=True, processes=False)
            with socket.create_server(("127.0.0.1", 0)) as own:
                inside = _outcome(lambda: socket.create_connection(own.getsockname(), timeout=5).close())
            return [inside, _outcome(lambda: socket.create_connection(("127.0.0.1", port), timeout=5).close())]

        assert in_a_child(attempt) == ["ok", "ConnectionRefusedError"]


@needs(NETWORK)
def test_a_socket_that_is_hidden_cannot_be_connected_to(tmp_path: Path) -> None:
    from ladle_worker.confinement.namespaces import enter

    path = str(tmp_path / "redis.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def connect() -> str:
            with socket.socket(socket.AF_UNIX) as client:
                return _outcome(lambda: client.connect(path))

        def attempt() -> list[str]:
            before = connect()
            enter(network=True, processes=False, hidden=[path])
            return [before, connect()]

        assert in_a_child(attempt) == ["ok", "ConnectionRefusedError"]
        assert connect() == "ok", "it is still there for everybody else"


@needs(PROCESSES)
def test_with_the_first_process_all_others_end_however_they_were_started() -> None:
    code = """
import os, sys, time
from ladle_worker.confinement.namespaces import enter, first_process
enter(network=False, processes=True)
status = first_process()
if status is not None:
    print("status", status, flush=True)
    os._exit(0)
import psutil
assert os.getpid() == psutil.Process().pid == 1 and psutil.Process().memory_info().rss > 1e6
assert psutil.pids() == [1], "it sees no other process"
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(1, b"up\\n")
        time.sleep(3600)
    os._exit(0)
time.sleep(1)
os._exit(7)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent(signal.SIGKILL),
    ) as process:
        assert process.stdout is not None
        # To the end of the file: the daemon holds it open for as long as it lives.
        assert process.stdout.read() == "up\nstatus 7\n"


def test_memory_beyond_the_limit_is_an_error_and_not_the_end() -> None:
    def attempt() -> int:
        limits.limit_memory(1 << 28)
        held = []
        try:
            while True:
                held.append(bytearray(1 << 27))
        except MemoryError:
            return len(held)

    taken = in_a_child(attempt)
    assert isinstance(taken, int)
    assert 2 <= taken < 40, "what was free, and what is spared for threads"


def test_the_largest_file_is_known_from_the_checkpoints_and_leaves_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    with (tmp_path / "checkpoints" / "a").open("wb") as file:
        file.truncate(1000)
    free = [1 << 50]
    monkeypatch.setattr(limits.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free[0]}))
    assert limits.max_file_bytes([tmp_path / "checkpoints"], tmp_path) == 8000 + (1 << 30)
    free[0] = 1000
    assert limits.max_file_bytes([tmp_path / "checkpoints"], tmp_path) == 900
    assert limits.max_file_bytes([tmp_path / "missing"], tmp_path) == 900


@needs_root
@pytest.mark.parametrize(("keeps", "outcome"), [(False, "ok"), (True, "PermissionError")])
def test_another_process_of_the_same_user_reads_neither_environment_nor_memory(keeps: bool, outcome: str) -> None:
    # Becoming another user protects a process too, until it starts a program: 1 undoes that.
    code = (
        "import ctypes, os, sys\nfrom ladle_contracts.processes import keep_secrets\n"
        f"os.setuid({NOBODY})\nctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"
        f"{'keep_secrets()' if keeps else ''}\nprint('up', flush=True)\nsys.stdin.read()"
    )

    def look(pid: int) -> dict[str, str]:
        os.setuid(NOBODY)
        files = {name: Path(f"/proc/{pid}/{name}") for name in ("environ", "mem", "maps")}
        return {name: _outcome(lambda path=path: path.open("rb").close()) for name, path in files.items()}  # type: ignore[misc]

    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        told = in_a_child(lambda: look(process.pid))
        process.kill()
    assert told == dict.fromkeys(("environ", "mem", "maps"), outcome)


def test_every_protection_that_holds_is_taken_and_the_others_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    granted = GRANTED | {FILES: "this kernel has no Landlock", NETWORK: "Operation not permitted"}
    assert choose(("auto",), granted, gpus=False) == (PORTS, PROCESSES, MEMORY)
    assert [record.message for record in caplog.records] == [
        "ranks are not confined in their files: this kernel has no Landlock",
        "ranks are not confined in their network: Operation not permitted",
        "ranks are confined in their ports, processes, memory",
    ]


def test_with_gpus_the_network_stays_unless_it_is_asked_for() -> None:
    assert choose(("auto",), GRANTED, gpus=False) == (FILES, NETWORK, PROCESSES, MEMORY)
    assert choose(("auto",), GRANTED, gpus=True) == (FILES, PORTS, PROCESSES, MEMORY)
    assert choose((FILES, NETWORK), GRANTED, gpus=True) == (FILES, NETWORK)
    assert choose(("off",), GRANTED, gpus=False) == ()


def test_what_is_asked_for_by_name_must_hold() -> None:
    with pytest.raises(CannotConfine, match="`LADLE_CONFINE` asks for `files`, but this kernel has no Landlock"):
        choose((FILES,), GRANTED | {FILES: "this kernel has no Landlock"}, gpus=False)


def test_a_refusal_of_the_kernel_is_an_answer_of_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise PermissionError(1, "Operation not permitted")

    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(probe, "ATTEMPTS", {FILES: refused, NETWORK: killed, PORTS: lambda: None})
    assert probe.probe() == {
        FILES: "[Errno 1] Operation not permitted",
        NETWORK: "the attempt failed",
        PORTS: "",
    }


def test_secrets_are_not_among_what_ranks_may_read_even_in_a_folder_that_is(tmp_path: Path) -> None:
    for name in ("data/password", "data/a/b", "data/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to(tmp_path / "data" / "password")
    found = readable([tmp_path / "data"], [], [tmp_path / "link"])
    assert str(tmp_path / "data") not in found
    assert str(tmp_path / "data" / "password") not in found
    assert {str(tmp_path / "data" / "a"), str(tmp_path / "data" / "c"), "/usr"} <= set(found)
    assert str(Path(sys.base_prefix)) in found


def test_a_plan_is_the_same_after_it_was_written(tmp_path: Path) -> None:
    plan = Plan(
        agent=1, protections=(FILES,), inputs=("/in",), outputs="/out", read=("/usr",), write=(), devices=("/dev/null",)
    )
    plan.save(tmp_path / "plan")
    assert Plan.load(tmp_path / "plan") == plan


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("CONFINE", "file"), ("CONFINE", "auto,files"), ("RANK_READ", "a"), ("RANK_WRITE", "/a:b")),
        *(("STALL_S", "0"), ("STALL_S", "soon"), ("STALL_S", "9,wrong=1"), ("STALL_S", "nan")),
    ],
)
def test_a_wrong_setting_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for known, given in {"ROOTS": "/data", "RESULTS_DIR": "/results", name: value}.items():
        monkeypatch.setenv(f"LADLE_{known}", given)
    with pytest.raises(ValidationError, match="must"):
        Settings()


@pytest.mark.parametrize(("version", "ports"), [(landlock.HAS_PORTS, (PORTS,)), (landlock.HAS_PORTS - 1, ())])
def test_ranks_of_several_nodes_have_ports_in_the_place_of_a_network_of_their_own(
    version: int, ports: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "version", lambda: version)
    assert among_nodes((FILES, NETWORK, MEMORY)) == (FILES, *ports, MEMORY)
    assert among_nodes((FILES, PORTS)) == (FILES, PORTS)
    assert among_nodes(()) == ()

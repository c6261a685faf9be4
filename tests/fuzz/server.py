"""Reads files of strangers, each in a process of its own that is bounded in time and memory.

`python -m tests.fuzz.server` takes a JSON list `[target, folder, scratch]` per line from stdin and answers with an
`Answer` per line on stdout. The libraries are imported once; each file gets a copy of this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

CPU_S = 20
"""Of processor time, for one file."""
WAIT_S = 300
"""Of time on the clock: a process that only waits is stuck."""
MEMORY_BYTES = 768 << 20
"""Beside what the process has when it begins."""
FILE_BYTES = 64 << 20
TRACE_LINES = 60
PATH_CHANGES = frozenset(
    {
        *("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
        *("os.chown", "os.utime", "os.setxattr", "shutil.rmtree"),
    }
)
OTHER_CHANGES = frozenset(
    {
        *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.kill", "subprocess.Popen"),
        *("socket.connect", "socket.bind", "socket.getaddrinfo", "pty.spawn", "webbrowser.open"),
    }
)
"""Events of Python's audit that change something; that start something, or talk to somebody."""


def main() -> None:
    _use_all_once()
    print("ready", flush=True)
    for line in sys.stdin:
        target, folder, scratch = json.loads(line)
        print(json.dumps(_apart(target, Path(folder), Path(scratch))), flush=True)


def _use_all_once() -> None:
    """What a first use imports is imported now, and not once per file."""
    from tests.fuzz.forms import write
    from tests.fuzz.targets import TARGETS
    from tests.fuzz.valid import VALID

    for target, files in VALID.values():
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as scratch:
            write(files(), Path(folder))
            TARGETS[target](Path(folder), Path(scratch))


def _apart(target: str, folder: Path, scratch: Path) -> dict[str, Any]:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _child(target, folder, scratch, write_end)
    os.close(write_end)
    try:
        text = _received(read_end, time.monotonic() + WAIT_S)
    finally:
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError):
            if not _has_ended(pid):
                os.kill(pid, signal.SIGKILL)
    return _answer(text, *_ended(pid))


def _has_ended(pid: int) -> bool:
    """Waits a moment, for a child that has answered."""
    for _ in range(100):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        time.sleep(0.01)
    return False


def _ended(pid: int) -> tuple[int, float]:
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def _received(descriptor: int, deadline: float) -> str:
    parts: list[bytes] = []
    while select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
        part = os.read(descriptor, 1 << 16)
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode()


def _answer(text: str, status: int, cpu_s: float) -> dict[str, Any]:
    if text:
        return {**json.loads(text), "cpu_s": round(cpu_s, 2)}
    how = {-signal.SIGXCPU: f"takes more than {CPU_S} s", -signal.SIGKILL: f"hangs for {WAIT_S} s"}
    return {"outcome": "fault", "what": how.get(status, f"ends with status {status}"), "cpu_s": round(cpu_s, 2)}


def _child(target: str, folder: Path, scratch: Path, answers: int) -> None:
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.chdir(scratch)
        touched: list[str] = []
        _bound()
        _watch([os.path.realpath(each) for each in (folder, scratch, tempfile.gettempdir())], touched)
        before = _memory_mb("VmRSS")
        answer = _outcome(target, folder, scratch)
        if touched and answer["outcome"] != "fault":
            answer = {"outcome": "fault", "what": f"touches {touched[:3]}"}
        os.write(answers, json.dumps({**answer, "taken_mb": _memory_mb("VmHWM") - before}).encode())
        status = 0
    finally:
        os._exit(status)


def _outcome(target: str, folder: Path, scratch: Path) -> dict[str, Any]:
    from ladle_engine import EngineError
    from tests.fuzz.targets import TARGETS, refusal

    try:
        TARGETS[target](folder, scratch)
    except EngineError as error:
        if (wrong := refusal(error)) is not None:
            return {"outcome": "fault", "what": f"{wrong}: {error.message[:500]}", "trace": _trace(error)}
        return {"outcome": "refused", "reason": error.code, "message": error.message}
    except BaseException as error:
        return {"outcome": "fault", "what": f"{type(error).__name__}: {str(error)[:500]}", "trace": _trace(error)}
    return {"outcome": "read"}


def _trace(error: BaseException) -> str:
    try:
        return "\n".join("".join(traceback.format_exception(error)).splitlines()[-TRACE_LINES:])
    except Exception as second:
        return f"no trace: {second!r}"


def _bound() -> None:
    sizes = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now = int(sizes["VmSize"].split()[0]) << 10
    # The peak counts from here.
    Path("/proc/self/clear_refs").write_text("5")
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, now + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A file that may not grow is an error, and no signal.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _memory_mb(which: str) -> int:
    sizes = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(sizes[which].split()[0]) >> 10


def _watch(allowed: list[str], touched: list[str]) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _writes(arguments) and not _inside(arguments[0], allowed):
            touched.append(f"{event} {arguments[0]!r}")
        elif event in OTHER_CHANGES or (event in PATH_CHANGES and not _inside(arguments[0], allowed)):
            touched.append(f"{event} {str(arguments)[:200]}")

    sys.addaudithook(hook)


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    wanted = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    return bool(flags & wanted) if isinstance(flags, int) else isinstance(mode, str) and bool(set(mode) & set("wax+"))


def _inside(path: object, allowed: list[str]) -> bool:
    if isinstance(path, int):
        # Opened before, and checked then.
        return True
    try:
        place = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]  # whatever the event has
    except (TypeError, ValueError):
        return False
    return place in (os.devnull, f"/proc/{os.getpid()}/clear_refs") or any(map(place.startswith, allowed))


if __name__ == "__main__":
    main()

"""A rank that somebody else has got hold of: it tries what ranks must not be able to do, and reports what worked.

The job's labels say what it tries. It is never imported by a test.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

ATTEMPT = Path(sys.argv[1])
JOB = json.loads((ATTEMPT / "job.json").read_text())
TARGET = JOB["spec"]["labels"]
RESULTS = ATTEMPT.parents[2]


def read_outside() -> object:
    return Path(TARGET["outside"]).read_text()


def list_outside() -> object:
    return list(Path(TARGET["outside"]).parent.iterdir())


def write_into_root() -> object:
    return (Path(JOB["ckpt_dir"]) / "planted").write_text("x")


def remove_from_root() -> object:
    Path(JOB["val_set"]).unlink()
    return "removed"


def write_a_result() -> object:
    (RESULTS / "planted").mkdir()
    return "made"


def link_to_outside() -> object:
    link = ATTEMPT / "link"
    link.symlink_to(TARGET["outside"])
    return link.read_text()


def read_environments() -> object:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found += [line for line in (folder / "environ").read_bytes().split(b"\0") if line.startswith(b"LADLE_")]
        except OSError:
            continue
    return found


def read_agents_memory() -> object:
    return Path(f"/proc/{TARGET['agent']}/mem").open("rb")


def signal_agent() -> object:
    os.kill(int(TARGET["agent"]), 0)
    # In process ids of its own that number may be a process of its own.
    return Path(f"/proc/{TARGET['agent']}/stat").read_text() if int(TARGET["agent"]) != os.getpid() else None


def connect_to_a_port() -> object:
    with socket.create_connection(("127.0.0.1", int(TARGET["port"])), timeout=5) as connection:
        return connection.getpeername()


def connect_to_redis() -> object:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect(TARGET["redis"]) or "connected"


def send_a_datagram() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        return connection.sendto(b"x", ("192.0.2.1", 53))


def open_many_files() -> object:
    with ExitStack() as held:
        for _ in range(100_000):
            held.enter_context(Path("/dev/null").open())
        return "all"


def write_a_huge_file() -> object:
    with (ATTEMPT / "huge").open("wb") as file:
        file.truncate(1 << 44)
        return "written"


def gain_privileges() -> object:
    """Of a file that changes the user: `no_new_privs` keeps it from doing so."""
    state = Path("/proc/self/status").read_text()
    kept = next(line for line in state.splitlines() if line.startswith("NoNewPrivs"))
    return None if kept.endswith("1") else kept


def use_capabilities() -> object:
    """Those over files are left to root: chown, dac_override, dac_read_search, fowner, fsetid, ipc_lock."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    left = {name: int(status[name], 16) & ~0x401F for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")}
    # An ordinary user has none, but what its programs could have is not taken from it.
    own = {name: value for name, value in left.items() if name != "CapBnd" or os.geteuid() == 0}
    return {name: hex(value) for name, value in own.items() if value}


ATTACKS: tuple[Callable[[], object], ...] = (
    *(read_outside, list_outside, write_into_root, remove_from_root, write_a_result, link_to_outside),
    *(read_environments, read_agents_memory, signal_agent, connect_to_a_port, connect_to_redis, send_a_datagram),
    *(write_a_huge_file, gain_privileges, use_capabilities, open_many_files),
)


def what_works() -> dict[str, str]:
    worked = {}
    for attack in ATTACKS:
        try:
            gained = attack()
        except OSError:
            continue
        if gained:
            worked[attack.__name__] = repr(gained)
    return worked


def leave_a_daemon() -> None:
    """In a session of its own, with no parent and without the job's mark."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(3600)", TARGET["daemon"]], {})


def main() -> None:
    if "daemon" in TARGET:
        leave_a_daemon()
        time.sleep(0.2)
    message = json.dumps(what_works())
    (ATTEMPT / "outcome.json").write_text(json.dumps({"ok": False, "reason": "internal-error", "message": message}))


if __name__ == "__main__":
    main()

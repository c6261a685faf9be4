"""The job's state machine: Lua scripts that both the service and the workers run.

Each script checks and writes in one step. Its first lines list its arguments and its answers. Register a script with
`redis.register_script(SCRIPTS["claim"])` and call it with `args=[...]`. The keys are built in the prelude, so none are
passed, and Redis Cluster is not supported.
"""

from __future__ import annotations

from importlib.resources import files

from ladle_contracts.keys import PREFIX

NAMES = (
    *("submit", "schedule", "claim", "renew", "report", "finalize", "end", "cancel", "reap"),
    *("register", "heartbeat", "leave", "elect", "next", "settle", "sweep", "index"),
    *("list", "waiting", "delete", "meet", "keep_state", "cordon", "told", "measure"),
)


BEFORE = ("prelude", "failures")
"""What is put before each script."""

BACKOFF_MS = 1_000
"""How long a job waits before its second attempt; the wait doubles for each further one, up to a minute."""


def _load() -> dict[str, str]:
    folder = files("ladle_contracts") / "lua"
    prelude = f"local PREFIX = '{PREFIX}'\n" + "".join((folder / f"{name}.lua").read_text() for name in BEFORE)
    return {name: prelude + (folder / f"{name}.lua").read_text() for name in NAMES}


SCRIPTS = _load()
"""Script name -> the whole text."""

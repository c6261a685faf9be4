"""A rank that leaves processes behind: one in another session without a parent, one that is stopped, one that forks on.

All ignore SIGTERM, and none ends with its parent.
"""

import os
import signal
import time


def stray(then: str) -> None:
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    if then == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    # Should it escape, it must not go on for ever.
    deadline = time.monotonic() + 120
    while then == "fork" and time.monotonic() < deadline:
        time.sleep(0.01)
        if os.fork():
            os._exit(0)
    time.sleep(3600)


signal.signal(signal.SIGTERM, signal.SIG_IGN)
for kind in ("sleep", "stop", "fork"):
    stray(kind)
time.sleep(3600)

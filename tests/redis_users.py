"""The users of `docker/redis-users.acl`, as `docker/init.sh` writes them for the server."""

from __future__ import annotations

import hashlib
from pathlib import Path

TEMPLATE = Path(__file__).parents[1] / "docker" / "redis-users.acl"
USERS = ("operator", "service", "worker")


def users_file(*, default: str = "reset off") -> str:
    """For the server. Each one's password is its name; `default` says who is let in without a name."""
    lines: list[str] = []
    for line in TEMPLATE.read_text().splitlines():
        if line.startswith(" "):
            lines[-1] += line
        elif line and not line.startswith("#"):
            lines.append(line)
    text = "\n".join(lines) + "\n"
    for user in USERS:
        text = text.replace(f"#{user.upper()}", f"#{hashlib.sha256(user.encode()).hexdigest()}")
    return text.replace("user default reset off", f"user default {default}")

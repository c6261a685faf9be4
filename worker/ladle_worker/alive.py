"""Whether this machine's nodes can be given jobs: `python -m ladle_worker.alive`, for health checks of containers.

Its exit status is 0 if the heartbeat of each slot in Redis is fresh, by Redis' own clock.
"""

from __future__ import annotations

import sys

from redis import Redis
from redis.exceptions import RedisError

from ladle_contracts import keys
from ladle_worker.settings import Settings

FRESH_S = 20.0


def ages_s(settings: Settings) -> dict[str, float]:
    """Of the last heartbeat of each node. Infinite if there was none. Raises RedisError."""
    with Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=3, socket_connect_timeout=3) as redis:
        beats_ms = {node: redis.hget(keys.node(node), "heartbeat_at") for node in settings.node_ids}
        seconds, micros = redis.time()
    now_s = seconds + micros / 1e6
    return {node: now_s - int(beat) / 1000 if beat else float("inf") for node, beat in beats_ms.items()}


def main() -> int:
    settings = Settings()
    try:
        ages = ages_s(settings)
    except RedisError as error:
        print(f"Redis does not answer: {error}", file=sys.stderr)
        return 1
    old = {node: age for node, age in ages.items() if age > FRESH_S}
    for node, age in old.items():
        print(f"the heartbeat of node {node} is {age:.0f} s old", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())

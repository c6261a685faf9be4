"""Whether this machine's node can be given jobs: `python -m ladle_worker.alive`, for health checks of containers.

Its exit status is 0 if the node's heartbeat in Redis is fresh, by Redis' own clock.
"""

from __future__ import annotations

import sys

from redis import Redis
from redis.exceptions import RedisError

from ladle_contracts import keys
from ladle_worker.settings import Settings

FRESH_S = 20.0


def age_s(settings: Settings) -> float:
    """Of the last heartbeat; of several slots, the oldest one. Infinite if there was none. Raises RedisError."""
    with Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=3, socket_connect_timeout=3) as redis:
        beats = [redis.hget(keys.node(node), "heartbeat_at") for node in settings.node_ids]
        seconds, micros = redis.time()
    return max(seconds + micros / 1e6 - int(beat) / 1000 if beat else float("inf") for beat in beats)


def main() -> int:
    settings = Settings()
    try:
        age = age_s(settings)
    except RedisError as error:
        print(f"Redis does not answer: {error}", file=sys.stderr)
        return 1
    if age > FRESH_S:
        print(f"the heartbeat of node {settings.node_id} is {age:.0f} s old", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

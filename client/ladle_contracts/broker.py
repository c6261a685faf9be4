"""What both ends of the Celery broker must agree on."""

from __future__ import annotations

import re

VISIBILITY_TIMEOUT_S = 7 * 24 * 3600
"""After this time Redis gives a message to another worker, even if the first one is still working on it. Claims make
that harmless, and the long time makes it rare."""


def broker_url(redis_url: str) -> str:
    """A Redis URL as kombu writes it: that of a unix socket begins with `redis+socket://`.

    kombu looks at no certificate unless the address says so.
    """
    if redis_url.startswith("rediss://") and "ssl_cert_reqs=" not in redis_url:
        redis_url += ("&" if "?" in redis_url else "?") + "ssl_cert_reqs=required"
    return re.sub(r"^unix://", "redis+socket://", redis_url).replace("?db=", "?virtual_host=")

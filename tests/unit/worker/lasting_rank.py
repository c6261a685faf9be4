"""A rank that does nothing for a long time, as the real one begins."""

from ladle_worker.family import die_with_parent, parent_of_ranks

die_with_parent(parent_of_ranks())

import time  # noqa: E402

time.sleep(3600)

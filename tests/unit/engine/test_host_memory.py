"""What a rank may take of the host's memory."""

from __future__ import annotations

import psutil
import pytest

from ladle_engine.storage.host_memory import SHARE_VARIABLE, free_host_bytes


def test_on_a_divided_machine_a_rank_counts_on_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    own = psutil.Process().memory_info().rss
    monkeypatch.setenv(SHARE_VARIABLE, str(4 * own))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert own <= free_host_bytes() <= 2 * own, "half of the share, less what it holds"
    monkeypatch.setenv(SHARE_VARIABLE, "1000")
    assert free_host_bytes() == 0
    monkeypatch.delenv(SHARE_VARIABLE)
    assert free_host_bytes() > 0

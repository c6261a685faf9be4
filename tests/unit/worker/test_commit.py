"""What ranks say of a result."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ladle_worker.commit import Commit, succeeded
from tests.browser.jobs_made import result


@pytest.mark.parametrize("name", ["gain", "gain_low", "gain_high", "duration_s"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_result_with_a_number_that_is_none_is_refused_before_it_is_moved(name: str, number: float) -> None:
    told = result("/results/x").model_dump(mode="json")
    assert succeeded({"result": told}).result == result("/results/x")
    nothing: Any = None
    with pytest.raises(ValueError, match="JSON"):
        Commit(nothing, nothing, nothing, 1.0).publish({"ok": True, "result": {**told, name: number}})

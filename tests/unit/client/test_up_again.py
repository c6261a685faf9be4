"""`ladle up` beside one that runs already."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from ladle._stack_file import Stack, sole_stack
from ladle.cli.console import SafeConsole
from ladle.cli.local import stay_up


@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_is_shown_the_address_that_logs_in(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    told, refused = io.StringIO(), io.StringIO()
    out, err = (SafeConsole(file=file, force_terminal=terminal, width=200) for file in (told, refused))
    with sole_stack() as announce:
        announce(Stack(url="http://127.0.0.1:1", token="secret", pid=7))
        assert stay_up([tmp_path], tmp_path, 0, out=out, err=err) == 1
    assert "already running at http://127.0.0.1:1 (process 7)" in refused.getvalue()
    assert ("http://127.0.0.1:1/login#secret" in told.getvalue()) == terminal
    assert ("secret" in told.getvalue()) == terminal

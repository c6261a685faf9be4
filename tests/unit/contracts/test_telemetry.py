"""Traces are off unless the environment says where to, and then nothing of OpenTelemetry is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ladle_contracts import telemetry

CODE = """
import sys
from ladle_contracts import telemetry
with telemetry.span("a", {"b": 1}, parent="00-1-1-01") as parent:
    telemetry.describe({"c": 2})
    telemetry.add_span("d", 0.0, parent=parent)
telemetry.end()
print(repr(telemetry.traceparent()), parent, sorted(name for name in sys.modules if name.startswith("opentelemetry")))
"""


@pytest.mark.parametrize("off", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}])
def test_nothing_is_imported_and_nothing_happens_while_traces_are_off(off: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | off
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "'' None []"


def test_a_library_that_is_missing_is_a_warning_and_not_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.setattr(telemetry, "_process", telemetry._Process())
    for _ in range(2):
        with telemetry.span("a") as parent:
            assert parent is None
    assert [record.getMessage() for record in caplog.records] == [
        "traces are not sent, because opentelemetry.sdk.resources is not installed: `pip install 'ladle[telemetry]'`"
    ]

"""The files of a result."""

from __future__ import annotations

COEFFICIENTS_FILE = "coefficients.json"

REPORT_FILE = "report.json"

STATISTICS_FILE = "statistics.safetensors"

FORMAT_VERSION = 1

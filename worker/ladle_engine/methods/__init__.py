"""Ways to choose coefficients, by name."""

from __future__ import annotations

from typing import Any

from ladle_engine.methods.base import Method
from ladle_engine.methods.plan import AutoOptions, plan_methods
from ladle_engine.methods.registry import AUTO, AUTO_METHODS, METHODS
from ladle_engine.methods.runs import run_once
from ladle_engine.options import describe_options

__all__ = ["AUTO", "AUTO_METHODS", "METHODS", "Method", "catalog", "plan_methods", "run_once"]


def catalog() -> list[dict[str, Any]]:
    """Every method with its reference and options, as plain JSON values."""
    auto = {
        "name": AUTO,
        "summary": f"Runs {', '.join(AUTO_METHODS)}, judges each on the select split and keeps the best.",
        "formula": (),
        "reference": "Ladle's own: docs/methods.md",
        "reference_url": "",
        "options": describe_options(AutoOptions),
    }
    return [auto] + [
        {
            "name": method.name,
            "summary": method.summary,
            "formula": method.formula,
            "reference": method.reference,
            "reference_url": method.reference_url,
            "options": describe_options(method.options_type),
        }
        for method in METHODS.values()
    ]

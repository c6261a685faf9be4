"""The page of the papers' rows says what the committed figures say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FIGURES = sorted((DOCS / "evidence").glob("*.json"))


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "evidence_tables.py"))


def test_the_tables_are_up_to_date(tables: dict[str, Any]) -> None:
    """When they are not: `python docs/evidence_tables.py`."""
    page = (DOCS / "evidence.md").read_text()
    assert tables["filled"](page) == page
    assert {f"<!-- from the figures: {name} -->" in page for name in tables["TABLES"]} == {True}


def test_every_file_of_figures_has_a_table(tables: dict[str, Any]) -> None:
    assert {path.stem for path in FIGURES} <= {table.file for table in tables["TABLES"].values()}


def test_a_table_has_its_means_and_counts_the_seeds_in_which_the_papers_order_holds(
    tables: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "evidence").mkdir()
    runs = [
        {"seed": seed, "rows": [{"method": m, "test": {"perplexity": p}} for m, p in perplexities]}
        for seed, perplexities in enumerate(
            ([("best", 20.0), ("uniform", 22.0), ("twa", 19.0)], [("best", 21.0), ("uniform", 20.0), ("twa", 18.0)])
        )
    ]
    (tmp_path / "evidence" / "language.json").write_text(json.dumps({"runs": runs}))
    text = _with_docs(tables, tmp_path, "language")
    assert "| uniform (SWA) | 22.000 | 20.000 | 21.000 |" in text
    assert "| best checkpoint beats uniform (SWA) | 1 of 2 |" in text


def test_figures_that_are_not_there_are_called_missing_with_their_command(
    tables: dict[str, Any], tmp_path: Path
) -> None:
    text = _with_docs(tables, tmp_path, "translation")
    assert text.startswith("**Missing**")
    assert "`python examples/papers/translation.py`" in text


def _with_docs(tables: dict[str, Any], docs: Path, name: str) -> str:
    table = tables["TABLES"][name]
    type(table).text.__globals__["DOCS"] = docs
    try:
        text: str = table.text()
    finally:
        type(table).text.__globals__["DOCS"] = DOCS
    return text

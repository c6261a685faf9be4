"""The documents' links lead somewhere, and what they name is there."""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ladle_contracts import PROBLEM_TITLES, ErrorCode, Reason
from ladle_engine import METHODS, average, combine_checkpoints
from ladle_engine.options import describe_options
from ladle_engine.tasks.installed import load_task, load_tasks

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = [
    *REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "examples").rglob("*.md"),
]  # fmt: skip
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_to_a_file_leads_to_one(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_readme_leads_to_the_contents_and_every_decision_is_in_its_index() -> None:
    assert "](docs/README.md)" in (REPOSITORY / "README.md").read_text()
    index = (REPOSITORY / "docs" / "decisions" / "README.md").read_text()
    for page in (REPOSITORY / "docs" / "decisions").glob("0*.md"):
        assert page.name in index


def anchors_of(document: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts and the site make them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_anchor_is_a_heading_of_its_page(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*\.md|)#([^)]+)\)", document.read_text()):
        page = document.parent / target if target else document
        assert anchor in anchors_of(page), f"{target}#{anchor}"


@pytest.mark.parametrize(("codes", "heading"), [(Reason, "## Reasons of jobs"), (ErrorCode, "## Codes of the service")])
def test_every_code_has_a_cause_and_a_cure_in_the_list_of_errors(codes: type[Reason | ErrorCode], heading: str) -> None:
    page = (REPOSITORY / "docs" / "errors.md").read_text()
    part = page.split(heading)[1].split("\n## ")[0]
    table = [[cell.strip(" `") for cell in line.strip("| ").split(" | ")] for line in part.splitlines() if "|" in line]
    rows = {cells[0]: cells[1:] for cells in table if re.fullmatch(r"[a-z-]+[a-z]", cells[0])}
    assert sorted(rows.keys() - {"reason", "code"}) == sorted(code.value for code in codes)
    assert all(len(cell) > 1 for cells in rows.values() for cell in cells)
    if codes is ErrorCode:
        statuses = {name: int(cells[0]) for name, cells in rows.items() if name != "code"}
        assert statuses == {code.value: status for code, (status, _) in PROBLEM_TITLES.items()}


def test_the_documents_list_every_method() -> None:
    methods = (REPOSITORY / "docs" / "methods.md").read_text()
    assert all(f"| [`{name}`](methods/{name}.md) |" in methods for name in METHODS)


TASKS = [name for name, task in load_tasks()[0].items() if task.__module__.startswith("ladle_engine.")]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_page_with_its_metrics_and_options(name: str) -> None:
    assert f"[`{name}`](tasks/{name}.md)" in (REPOSITORY / "docs" / "tasks.md").read_text()
    page = (REPOSITORY / "docs" / "tasks" / f"{name}.md").read_text()
    task = load_task(name)
    for word in [*(metric.name for metric in task.metrics), *(o["name"] for o in describe_options(task.options_type))]:
        assert f"`{word}`" in page, word


def test_the_tables_and_the_schema_that_come_from_the_contract_are_up_to_date() -> None:
    """When they are not: `python docs/contract_tables.py`."""
    texts = runpy.run_path(str(REPOSITORY / "docs" / "contract_tables.py"))["texts"]()
    assert len(texts) == 6
    for path, text in texts.items():
        assert path.read_text() == text, path.name
        assert path.suffix == ".json" or "<!-- from the contract: " in text, path.name


@pytest.mark.parametrize("function", [average, combine_checkpoints])
def test_every_argument_of_the_engines_functions_is_in_their_table_and_no_other(function: Callable[..., Any]) -> None:
    page = (REPOSITORY / "docs" / "engine.md").read_text()
    tables = [part for part in page.split("\n\n") if part.startswith("| argument |")]
    table = tables[0] if function is average else tables[1]
    named = {name for row in table.splitlines() for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    assert named == set(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_with_its_source_and_its_options(name: str) -> None:
    page = (REPOSITORY / "docs" / "methods" / f"{name}.md").read_text()
    shared = (REPOSITORY / "docs" / "methods" / "training.md").read_text() if "training.md" in page else ""
    for option in describe_options(METHODS[name].options_type):
        assert f"`{option['name']}`" in page + shared, option["name"]
    year = re.search(r"(19|20)\d\d", METHODS[name].reference)
    assert year is None or year[0] in page


def test_every_reason_of_a_failed_job_is_explained() -> None:
    tables = [
        line
        for name in ("checkpoints.md", "data.md", "tasks.md", "output.md", "placements.md", "rest.md", "tasks/*.md")
        for page in (REPOSITORY / "docs").glob(name)
        for line in page.read_text().splitlines()
    ]
    for reason in Reason:
        assert any(f"`{reason}`" in line for line in tables), reason


@pytest.mark.parametrize("page", ["reliability.md", "security.md"])
def test_every_test_that_shows_a_promise_is_there(page: str) -> None:
    named = re.findall(r"`([a-z0-9_]+/[a-z0-9_/]+\.py)::(test_\w+)`", (REPOSITORY / "docs" / page).read_text())
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (REPOSITORY / "tests" / file).read_text(), f"{file}::{test}"


def test_every_file_that_the_recipes_name_is_there() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:worker|client|service|tests|docs|examples|benchmarks)/[^`<> ]+)`", text)
    assert len(named) > 20
    for name in named:
        assert (REPOSITORY / name).exists() or "NAME" in name, name


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs" / "decisions").glob("0*.md")), ids=lambda page: page.name)
def test_a_decision_fits_one_page(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= 60


def test_make_help_names_every_target() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    for target in phony[1].split():
        assert re.search(rf"^{target}:.*## \S", makefile, re.MULTILINE), target

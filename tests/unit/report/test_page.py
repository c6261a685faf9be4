"""The page of a report: one file that loads nothing, whole for every report, with a table behind every figure."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from ladle_report import NotAReport, content_security_policy, page
from ladle_report.limits import MOST_BYTES
from tests.unit.report.html_pages import data_in, parse
from tests.unit.report.reports import NEW_KEYS, older, report

SECTIONS = ["outcome", "candidates", "merge-curve", "coefficients", "basins", "training", "made-of", "reproduce"]
FIGURES = {
    *(
        "candidates",
        "merge-curve",
        "weights",
        "layers",
        "all-coefficients",
        "cosines",
        "distances",
        "segments",
        "plane",
    ),
    *("fit-loss", "coefficient-paths", "memory", "stages"),
}
HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "`](http://evil.example)", "a\u202eb"]


def test_a_report_has_its_eight_sections_in_order() -> None:
    sections = [each.attributes["id"] for each in parse(page(report())).all("section")]
    assert sections == SECTIONS


def test_every_figure_has_a_title_words_on_how_to_read_it_and_its_table() -> None:
    top = parse(page(report()))
    figures = list(top.all("figure"))
    assert {each.attributes["id"].removeprefix("figure-") for each in figures} == FIGURES
    for figure in figures:
        (drawing,) = figure.all("svg")
        assert drawing.attributes["role"] == "img"
        named = [element for element in drawing.all() if element.attributes.get("id")]
        assert drawing.attributes["aria-labelledby"].split() == [element.attributes["id"] for element in named]
        assert [element.name for element in named] == ["title", "desc"]
        assert all(element.text.strip() for element in named)
        (heading,), (table,) = figure.all("h3"), figure.all("table")
        assert heading.text
        assert len(next(figure.all("p")).whole_text) > 40
        rows = list(table.all("tr"))
        assert len(rows) > 1
        assert all(head.attributes["scope"] in ("col", "row") for head in table.all("th"))
        assert len({len(row.children) for row in rows}) == 1, "every row has a cell for every head"
        assert next(table.all("caption")).whole_text


def test_every_figure_is_in_the_page_as_json() -> None:
    data = data_in(parse(page(report())))
    assert set(data["figures"]) == FIGURES
    assert data["figures"]["weights"]["coefficients"]
    assert data["figures"]["plane"]["loss"][0][0] is None, "a loss that is not finite"
    assert data["markdown"].startswith("**")


def test_ids_are_there_once_and_links_lead_to_them() -> None:
    elements = list(parse(page(report())).all())
    ids = [element.attributes["id"] for element in elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for link in (element for element in elements if element.name == "a"):
        assert link.attributes["href"].removeprefix("#") in ids
    for element in elements:
        assert set(element.attributes.get("aria-labelledby", "").split()) <= set(ids)


def test_drawings_are_well_formed_xml_so_they_are_pictures_elsewhere_too() -> None:
    found = re.findall(r"<svg.*?</svg>", page(report()), re.DOTALL)
    assert len(found) == len(FIGURES)
    for drawing in found:
        assert ElementTree.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"


def test_nothing_is_loaded_and_the_policy_admits_only_what_is_in_the_page() -> None:
    text = page(report())
    top = parse(text)
    for element in top.all():
        assert not {"src", "srcset", "poster", "data", "style"} & set(element.attributes), element
        assert not any(name.startswith("on") for name in element.attributes), element
        assert element.name not in ("link", "img", "iframe", "object", "base", "form")
        assert not element.attributes.get("href", "#").startswith("http")
    (style,) = top.all("style")
    assert not re.search(r"url\(|@import", style.text)
    script = next(element for element in top.all("script") if not element.attributes)
    policy = next(e.attributes["content"] for e in top.all("meta") if e.attributes.get("http-equiv"))
    assert policy == content_security_policy()
    for content in (style.text, script.text):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


@pytest.mark.parametrize(("K", "G"), [(2, 1), (60, 12), (300, 200)])
def test_a_page_is_below_its_limit_however_much_there_is(K: int, G: int) -> None:
    text = page(report(K, G))
    assert len(text.encode()) <= MOST_BYTES
    assert {each.attributes["id"] for each in parse(text).all("section")} == set(SECTIONS)


def test_long_names_and_many_warnings_do_not_break_the_limit() -> None:
    long = report(300, 200, names=[f"{'x' * 240}-{i}" for i in range(300)])
    long["warnings"] = ["w" * 5000] * 500
    assert len(page(long).encode()) <= MOST_BYTES


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_others_chose_are_text(name: str) -> None:
    names = [name, *(f"step-{i}" for i in range(5))]
    told = report(names=names)
    told["warnings"] = [name, f"`{name}`"]
    told["settings"]["ckpt_dir"] = f"/data/{name}"
    told["task"] = name
    told["candidates"][3]["label"] = name
    told["candidates"][4]["groups"] = [name, "b", "c"]
    told["metric"]["name"] = "accuracy"
    told["versions"][name] = name
    text = page(told)
    plain = parse(page(report()))
    top = parse(text)
    assert {element.name for element in top.all()} == {element.name for element in plain.all()}
    assert sum(1 for _ in top.all("script")) == 2
    assert "\u202e" not in text
    assert data_in(top)["figures"]


@pytest.mark.parametrize(
    "missing", [*NEW_KEYS, "memory", "statistics", "geometry", "settings", "warnings", "provenance"]
)
def test_a_report_without_a_part_has_the_rest(missing: str) -> None:
    told = report()
    del told[missing]
    assert len(list(parse(page(told)).all("section"))) >= 6


def test_a_report_of_an_earlier_version_has_what_it_knows() -> None:
    top = parse(page(older()))
    figures = {each.attributes["id"].removeprefix("figure-") for each in top.all("figure")}
    assert figures == FIGURES - {"segments", "plane", "coefficient-paths", "stages"}
    assert "diagnose" in next(e for e in top.all("section") if e.attributes["id"] == "basins").whole_text


def test_one_checkpoint_alone_has_a_page() -> None:
    told = older(K=2, winner="best")
    told["candidates"] = told["candidates"][:1]
    told["candidates"][0]["coefficients"] = [[1.0]]
    told["checkpoints"] = told["checkpoints"][:1]
    sections = [each.attributes["id"] for each in parse(page(told)).all("section")]
    assert "candidates" in sections
    assert "basins" not in sections


@pytest.mark.parametrize("told", [{}, [], {"winner": "twa"}, {**report(), "candidates": []}, {**report(), "gain": 3}])
def test_what_is_no_report_is_refused(told: Any) -> None:
    with pytest.raises(NotAReport, match="that Ladle wrote"):
        page(told)


def test_the_page_says_where_the_result_is() -> None:
    assert "the folder of this page" in parse(page(report())).whole_text
    assert "/results/resnet" in parse(page(report(), folder="/results/resnet")).whole_text


def test_the_files_to_load_are_those_of_the_model() -> None:
    told = report()
    told["files"] |= {"coefficients.json": "0", "statistics.safetensors": "1", "candidates.png": "2"}
    (outcome, *_) = parse(page(told)).all("section")
    assert "model.safetensors" in outcome.whole_text
    assert "statistics.safetensors" not in outcome.whole_text
    assert "candidates.png" not in outcome.whole_text


def test_what_would_take_minutes_to_draw_is_no_report_of_ours() -> None:
    """The dashboard draws what a rank has written."""
    crowd = report()
    crowd["candidates"] = crowd["candidates"] * 101
    wide, long = report(), report()
    wide["diagnosis"]["plane"] |= {"x": [0.0] * 700, "y": [0.0] * 700, "loss": [[0.0] * 700] * 700}
    long["diagnosis"]["segments"] = [{"checkpoint": "a", "t": [0.0] * 2000, "loss": [0.1] * 2000, "barrier": 0.0}]
    for odd in (crowd, wide, long):
        with pytest.raises(NotAReport):
            page(odd)

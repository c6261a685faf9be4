"""Formulas become MathML."""

from __future__ import annotations

from html.entities import html5
from xml.etree import ElementTree

import pytest

from ladle_service.pages.formulas import mathml

MINUS = html5["minus;"]


@pytest.mark.parametrize(
    ("formula", "inner"),
    [
        ("x", "<mi>x</mi>"),
        ("1/K", "<mfrac><mn>1</mn><mi>K</mi></mfrac>"),
        ("alpha_i", f"<msub><mi>{html5['alpha;']}</mi><mi>i</mi></msub>"),
        ("w_i^2", "<msubsup><mi>w</mi><mi>i</mi><mn>2</mn></msubsup>"),
        ("(1 - S)/K", f"<mfrac><mrow><mn>1</mn><mo>{MINUS}</mo><mi>S</mi></mrow><mi>K</mi></mfrac>"),
        ("x^(K-i)", f"<msup><mi>x</mi><mrow><mi>K</mi><mo>{MINUS}</mo><mi>i</mi></mrow></msup>"),
        ("sum_j", "<munder><mo>∑</mo><mi>j</mi></munder>"),
    ],
)
def test_a_formula_is_what_it_says(formula: str, inner: str) -> None:
    assert mathml(formula) == f'<math display="block" alttext="{formula}">{inner}</math>'


@pytest.mark.parametrize("formula", ["", "(", ")", "a_", "^", "a/", "((((", "<script>alert(1)</script> & \"'"])
def test_any_text_is_well_formed_and_stays_text(formula: str) -> None:
    tree = ElementTree.fromstring(mathml(formula))
    assert tree.attrib["alttext"] == formula
    assert {element.tag for element in tree.iter()} <= {
        *(
            "math",
            "mrow",
            "mi",
            "mn",
            "mo",
            "mtext",
            "mfrac",
            "msub",
            "msup",
            "msubsup",
            "munder",
            "mover",
            "munderover",
        )
    }

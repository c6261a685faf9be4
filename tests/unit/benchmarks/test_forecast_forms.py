"""How the forecast is fitted and judged; and that the engine's numbers are those of the measured sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.forecast_forms import FORMS, Row, border, fit_of, judged_forms, line_through, offered
from ladle_engine.subspace.forecast import OF_DISTANCES, OF_LOSSES, bent, fitted, line, straightened

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "forecast.json"
FAMILIES = ("digits", "icons", "titles", "docs")


def rows(useful: float = 1.0) -> list[Row]:
    """48 sets, whose bent gain is `useful` times a feature of distances, and noise."""
    draws = np.random.default_rng(0)
    made = []
    for number in range(48):
        decayed = number % 3 == 0
        features = {name: float(draws.normal()) for name in (*OF_DISTANCES, *OF_LOSSES)}
        features["slowing"] = -2.0 - draws.uniform() if decayed else draws.uniform()
        gain = straightened(1 + useful * features["noise"] + 0.1 * draws.normal())
        made.append(
            Row(
                set=f"{FAMILIES[number % 4]}-{number}",
                seed=0,
                kind="decayed" if decayed else "constant",
                K=8,
                features=features,
                gain=gain,
                gain_of_mean=0.0,
                winner="twa",
            )
        )
    return made


def test_a_line_is_the_ridge_regression_of_the_bent_gains() -> None:
    made = rows()
    form = line_through(OF_DISTANCES, made)
    table = np.array([[row.features[name] for name in OF_DISTANCES] for row in made])
    standard = (table - table.mean(axis=0)) / table.std(axis=0)
    target = np.array([bent(row.gain) for row in made])
    # The same as rows more: the penalty's square root on the diagonal, and 0 as their target.
    wide = np.vstack([standard, np.eye(3)])
    slopes, *_ = np.linalg.lstsq(wide, np.concatenate([target - target.mean(), np.zeros(3)]), rcond=None)
    assert [line(form, row.features) for row in made] == pytest.approx(list(standard @ slopes + target.mean()))


@pytest.mark.parametrize("useful", [1.0, 0.0])
def test_a_form_is_offered_only_where_it_tells_more_than_the_median(useful: float) -> None:
    made = rows(useful)
    judged = judged_forms(made)
    assert ("distances" in offered(judged["result"])) is bool(useful)
    assert offered(judged["result"])[-1] == "median"
    assert judged["result"].keys() == FORMS.keys()
    assert judged["result"]["median"].errors.keys() == set(FAMILIES)
    assert 0.6 < judged["result"]["distances"].covered < 0.95
    forms = fit_of(made, judged)["targets"]["result"]
    assert [form["form"] for form in forms] == (["distances", "median"] if useful else ["median"])


def test_the_border_of_a_decayed_rate_lies_between_the_kinds() -> None:
    made = rows()
    assert -2.0 < border(made) < 0.0
    decayed = fit_of(made, judged_forms(made))["decayed"]
    assert (decayed["told"], decayed["wrongly"]) == ([16, 16], [0, 32])


def test_the_engine_has_the_numbers_of_the_sets_that_were_measured() -> None:
    """When it has not: `python benchmarks/forecast.py --fit`."""
    measured = [Row(**row) for row in json.loads(RESULTS.read_text())["rows"]]
    fit = json.loads(json.dumps(fit_of(measured, judged_forms(measured))))
    ours, engines = _numbers(fit), _numbers(dict(fitted()))
    assert ours.keys() == engines.keys()
    for place, value in ours.items():
        assert engines[place] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6)), place


def _numbers(value: Any, place: str = "") -> dict[str, Any]:
    """Place -> number or word, however deep."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: each for name, part in inner for key, each in _numbers(part, f"{place}.{name}").items()}
    return {place: value}

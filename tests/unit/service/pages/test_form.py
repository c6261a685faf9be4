"""The form has a control for every option of a job, and loses no error."""

from __future__ import annotations

from ladle_contracts.command_flags import FIELDS
from ladle_service.pages.form import make_form
from ladle_service.pages.form_values import OPTIONS
from tests.unit.service.pages.catalogs import CATALOG, NOTHING


def test_every_option_of_a_job_has_one_control_with_its_help() -> None:
    form = make_form({}, CATALOG)
    names = [control.name for control in form.controls]
    assert len(names) == len(set(names))
    assert set(FIELDS) - set(OPTIONS) <= set(names)
    assert all(control.help for control in form.controls)


def test_the_options_are_those_of_the_chosen_method_and_task() -> None:
    form = make_form({"method.name": "twa", "task.name": "image-classification", "method.options.steps": "x"}, CATALOG)
    steps, rate, *_ = form.method_options.controls
    assert (steps.name, steps.text, rate.default) == ("method.options.steps", "x", "0.1")
    assert [control.name for control in form.task_options.controls] == [
        "task.options.batch_size",
        "task.options.columns",
        "task.options.split",
    ]
    assert not make_form({"method.name": "uniform"}, CATALOG).method_options.controls


def test_without_a_node_names_are_typed_and_options_stand_in_one_text() -> None:
    form = make_form({"method.name": "twa", "method.options": "steps=3"}, NOTHING)
    assert form.first["method.name"].widget == "line"
    assert [control.text for control in form.method_options.controls] == ["steps=3"]


def test_a_choice_that_no_node_offers_any_more_stays_in_the_form() -> None:
    method = make_form({"method.name": "gone"}, CATALOG).first["method.name"]
    assert (method.text, method.choices[-1]) == ("gone", "gone")


def test_metrics_are_those_of_the_task() -> None:
    metrics = {
        task: next(each.choices for each in make_form({"task.name": task}, CATALOG).controls if each.name == "metric")
        for task in ("", "causal-lm")
    }
    assert metrics == {"": ("accuracy", "loss", "perplexity"), "causal-lm": ("loss", "perplexity")}


def test_each_error_stands_at_its_control_or_above_the_form() -> None:
    errors = {
        "checkpoints.last": "must be at least 1, but is 0",
        "checkpoints.steps.1": "must be a number",
        "val_set.noisy": "must be an existing file",
        "method.options": "has no such option",
        "somewhere.else": "is wrong",
        "": "all is wrong",
    }
    form = make_form({"method.name": "uniform"}, CATALOG, errors)
    assert {control.name: control.error for control in form.wrong} == {
        "checkpoints.last": "must be at least 1, but is 0",
        "checkpoints.steps": "must be a number",
        "val_set": "must be an existing file",
    }
    assert form.other_errors == ("`method.options` has no such option", "`somewhere.else` is wrong", "all is wrong")
    assert next(section for section in form.sections if section.title == "Which checkpoints").is_used

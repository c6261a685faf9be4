"""Runs a method once per job, with the job's options, whoever asks for what it chose."""

from __future__ import annotations

from ladle_engine.coefficients import Coefficients
from ladle_engine.methods.context import Choice, MethodContext
from ladle_engine.methods.registry import METHODS


def run_once(context: MethodContext, method: str) -> Choice:
    """Collective: what a method chose earlier in this job, before a crash, or just now.

    A method that the job does not name (others may start from it) runs with the job's options for it, or the defaults.
    """
    if method not in context.choices:
        context.choices[method] = _load(context, method) or _run(context, method)
    return context.choices[method]


def _load(context: MethodContext, method: str) -> Choice | None:
    saved = context.state.load(_key(method))
    if saved is None:
        return None
    return Choice(
        coefficients=Coefficients.from_json(saved["coefficients"]),
        label=saved["label"],
        losses=saved["losses"],
        course=saved["course"],
        details=saved.get("details"),
    )


def _run(context: MethodContext, method: str) -> Choice:
    choice = METHODS[method].choose(context, context.plan.options[method])
    # Among how many it chose must not be forgotten in a crash that remembers what.
    context.evaluations.save()
    context.state.save(
        _key(method),
        {
            "coefficients": choice.coefficients.to_json(),
            "label": choice.label,
            "losses": choice.losses,
            "course": choice.course,
            "details": choice.details,
        },
    )
    return choice


def _key(method: str) -> str:
    return f"choice-{method}"

"""The block at the beginning of a model card, by the Hub's own classes.

See https://huggingface.co/docs/hub/model-cards and the specification of `model-index` in huggingface/hub-docs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

TAGS = ("ladle", "weight-averaging", "model-soup", "merge")
UNKNOWN_DATA = "unknown"
"""`dataset.type` must be an id on the Hub, which a file of somebody's is not."""
_MARKUP = re.compile(r"(?!(?<=\d)\.(?=\d))[^\w %()+-]")
"""A dot inside a word would be a link for some readers."""


def front_matter(report: Mapping[str, Any]) -> str:
    """The block with the lines around it."""
    # Here, because importing it takes as long as a third of the engine.
    from huggingface_hub.repocard_data import ModelCardData

    facts = dict(report.get("card", {}))
    for name in ("base_model", "language", "license"):
        # As people write them: one value without a list.
        if isinstance(facts.get(name), list) and len(facts[name]) == 1:
            facts[name] = facts[name][0]
    data = ModelCardData(
        **{"library_name": "ladle", **facts},
        tags=[*TAGS, *_more_tags(report)],
        model_name=_model_name(report),
        eval_results=list(_eval_results(report)),
    )
    return f"---\n{data.to_yaml()}\n---"


def _more_tags(report: Mapping[str, Any]) -> Iterator[str]:
    if report.get("adapters") is not None:
        yield "lora"
    if str(report["winner"]).startswith("twa"):
        yield "trainable-weight-averaging"


def _model_name(report: Mapping[str, Any]) -> str:
    base = report.get("card", {}).get("base_model") or [report.get("task", "model")]
    return _plain(f"{base[0].rpartition('/')[2]}-{report['winner']}")


def _eval_results(report: Mapping[str, Any]) -> Iterator[Any]:
    """The winner's scores on the select split, on each validation set that has a name."""
    from huggingface_hub.repocard_data import EvalResult

    winner = next(row for row in report["candidates"] if row["method"] == report["winner"])
    sets = report["validation_sets"]
    parts = [(name, sets[name]["select"], on_set["select"]) for name, on_set in winner["sets"].items() if name in sets]
    for name, count, scores in parts or [("validation set", report["splits"]["select"], winner["select"])]:
        for metric, value in scores.items():
            yield EvalResult(
                task_type=_plain(report.get("card", {}).get("pipeline_tag") or report.get("task", UNKNOWN_DATA)),
                dataset_type=UNKNOWN_DATA,
                dataset_name=_plain(f"{name} ({count} held-out examples)"),
                metric_type=_plain(metric),
                metric_value=value,
            )


def _plain(text: str) -> str:
    """Without what could be markup, where somebody shows the block as text."""
    return _MARKUP.sub("-", text)

"""The model card: what a person who finds the folder wants to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def model_card(report: Mapping[str, Any]) -> str:
    """Markdown with the front matter of a model hub."""
    metric = report["metric"]["name"]
    names = [checkpoint["name"] for checkpoint in report["checkpoints"]]
    return "\n".join(
        [
            "---",
            "library_name: ladle",
            "tags: [weight-averaging, model-soup, trainable-weight-averaging]",
            "---",
            "",
            f"# Average of {len(names)} checkpoints (`{report['winner']}`)",
            "",
            _verdict(report),
            "",
            *_table(report, list(dict.fromkeys([metric, "loss"]))),
            "",
            f"The select split ({report['splits']['select']} examples) judged the candidates and trained nothing; the "
            f"fit split ({report['splits']['fit']} examples) and what else the job names trained coefficients. The "
            f"interval is that of a paired comparison with the best single checkpoint. The last column is of "
            f"{report['splits']['fit_judged']} examples of the fit split.",
            "",
            *_statistics(report["statistics"]),
            "## Load",
            "```python",
            "from safetensors.torch import load_file",
            'weights = load_file("model.safetensors")',
            "# or from_pretrained(folder), where config.json is one of transformers",
            "```",
            "",
            "## Rebuild",
            "`coefficients.json` and the original checkpoints make this model again bit for bit, or another candidate:",
            "```python",
            "from ladle_engine import rebuild",
            'rebuild("coefficients.json", "path/to/checkpoints", output="again")',
            "```",
            "",
            "## Made from",
            *[f"- `{name}`" for name in names],
            "",
            *_warnings(report),
            f"Made by Ladle {report['versions']['ladle']}; all figures are in `report.json`.",
            "",
        ]
    )


def _verdict(report: Mapping[str, Any]) -> str:
    gain, metric = report["gain"], report["metric"]["name"]
    if report["winner"] == "best":
        return (
            "No average was better than the best checkpoint on the select split, so this is that checkpoint, unchanged."
        )
    if gain["value"] == 0:
        return (
            f"As good as the best checkpoint in {metric} on the select split, with a lower loss there "
            f"({_select_loss(report, report['winner']):.4f} against {_select_loss(report, 'best'):.4f})."
        )
    sure = "" if gain["low"] > 0 else " The interval holds zero: the gain may be chance."
    return (
        f"Better than the best checkpoint by {gain['value']:+.4f} in {metric} on the select split (95 % interval "
        f"{gain['low']:+.4f} to {gain['high']:+.4f}).{sure}"
    )


def _statistics(chosen: Mapping[str, Any]) -> list[str]:
    """Nothing where there was nothing to choose."""
    losses, way = chosen["fit_loss"], chosen["mixtures"]
    if not losses:
        return []
    other = next(name for name in losses if name != way)
    return [
        f"BatchNorm's statistics of an average are {way}. So the mean of all checkpoints has a loss of "
        f"{_number(losses[way])} on the fit split, and of {_number(losses[other])} with {other} ones. They are "
        f"recomputed on {chosen['examples']} examples. A single checkpoint keeps its own.",
        "",
    ]


def _number(loss: float | None) -> str:
    return "no number" if loss is None else f"{loss:.4f}"


def _select_loss(report: Mapping[str, Any], method: str) -> float:
    values = [row["select"]["loss"] for row in report["candidates"] if row["method"] == method]
    return float(values[0])


def _table(report: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    """One row a candidate: its values on the select split, its gain, and what it had on the fit split."""
    heads = ["method", *metrics, "gain over best", "95 % interval", f"{metrics[0]}, fit split"]
    rows = []
    for row in report["candidates"]:
        mark = "**" if row["method"] == report["winner"] else ""
        cells = [
            f"{mark}{row['label']}{mark}",
            *(f"{row['select'][metric]:.4f}" for metric in metrics),
            f"{row['gain']:+.4f}",
            f"{row['gain_low']:+.4f} to {row['gain_high']:+.4f}",
            f"{row['fit'][metrics[0]]:.4f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows]


def _warnings(report: Mapping[str, Any]) -> list[str]:
    if not report["warnings"]:
        return []
    return ["## Warnings", *[f"- {warning}" for warning in report["warnings"]], ""]

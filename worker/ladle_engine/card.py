"""The model card: what a person who finds the folder wants to know."""

from __future__ import annotations

from collections.abc import Mapping
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
            f"| method | {metric}, select split | gain over best | 95 % interval | {metric}, fit split |",
            "|---|---|---|---|---|",
            *[_row(candidate, metric, report["winner"]) for candidate in report["candidates"]],
            "",
            f"The select split ({report['splits']['select']} examples) judged the candidates and trained nothing; the "
            f"fit split ({report['splits']['fit']} examples) chose the coefficients. The interval is that of a paired "
            f"comparison with the best single checkpoint.",
            "",
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
    sure = "" if gain["low"] > 0 else " The interval holds zero: the gain may be chance."
    return (
        f"Better than the best checkpoint by {gain['value']:+.4f} in {metric} on the select split (95 % interval "
        f"{gain['low']:+.4f} to {gain['high']:+.4f}).{sure}"
    )


def _row(candidate: Mapping[str, Any], metric: str, winner: str) -> str:
    mark = "**" if candidate["method"] == winner else ""
    return (
        f"| {mark}{candidate['label']}{mark} | {candidate['select'][metric]:.4f} | {candidate['gain']:+.4f} "
        f"| {candidate['gain_low']:+.4f} to {candidate['gain_high']:+.4f} | {candidate['fit'][metric]:.4f} |"
    )


def _warnings(report: Mapping[str, Any]) -> list[str]:
    if not report["warnings"]:
        return []
    return ["## Warnings", *[f"- {warning}" for warning in report["warnings"]], ""]

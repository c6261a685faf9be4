"""1. The answer: where the model is, how to load it, and what to know of it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ladle_report.forecast_words import beside_gain
from ladle_report.gains import better, better_between, is_share
from ladle_report.limits import shorten
from ladle_report.loss_decided import loss_decided
from ladle_report.model import Code, Facts, Part, Remark, Section
from ladle_report.numbers import plural, seconds, signed, value_of
from ladle_report.reading import Report
from ladle_report.reasons import reasons
from ladle_report.sureness import needed_examples
from ladle_report.verdict import gain_in_words, interval

MOST_WARNINGS = 20
WEIGHTS = (".safetensors", ".distcp", ".metadata")
STATISTICS = "statistics.safetensors"
"""For rebuilding, not for loading."""
MAY_BE_CHANCE = "The interval includes zero, so this may be chance. More held-out examples would tell."


def outcome_section(report: Report) -> Section:
    """What a person wants who reads nothing else."""
    parts: list[Part] = [*_why(report), *_warnings(report), Facts(rows=_facts(report))]
    if not report.is_curve:
        parts.append(loading(report))
    return Section(name="outcome", title="The result", parts=parts)


def _why(report: Report) -> list[Part]:
    """Where the answer is not plain: that it may be chance, or why nothing was better."""
    if report.is_curve:
        return [Remark(text=str(each)) for each in report.part("merge_curve").get("words", ())]
    if report.json["winner"] == "best":
        return [Remark(text=reason) for reason in reasons(report)]
    decided = loss_decided(report.candidates, str(report.json["winner"]), report.metric)
    told = [Remark(text=decided)] if decided else []
    gain = report.json["gain"]
    if gain["value"] and gain["low"] <= 0:
        chance = " ".join(filter(None, (MAY_BE_CHANCE, needed_examples(report))))
        return [*told, Remark(text=chance, is_warning=True)]
    return [*told]


def _warnings(report: Report) -> list[Part]:
    warnings = [str(each) for each in report.json.get("warnings", ())]
    told: list[Part] = [
        Remark(text=shorten(each, report.limits.chars), is_warning=True) for each in warnings[:MOST_WARNINGS]
    ]
    if len(warnings) > MOST_WARNINGS:
        told.append(Remark(text=f"{len(warnings) - MOST_WARNINGS} more warnings are in `report.json`."))
    return told


def _facts(report: Report) -> list[tuple[str, str]]:
    json_ = report.json
    rows = [
        ("Method", str(report.winner["label"])),
        ("Gain", gain_in_words(report)),
        *([("Forecast", told)] if (told := beside_gain(report)) else []),
        ("Model", _where(report)),
        ("Made from", f"{plural(len(report.names), 'checkpoint')} of {json_['num_parameters']:,} parameters"),
        ("Judged on", _judged_on(report)),
        ("Task", f"`{json_['task']}`"),
    ]
    total = sum(each.get("seconds") or 0.0 for each in json_.get("stages", ()))
    if total:
        rows.append(("Took", seconds(total)))
    if job := report.part("provenance").get("job_id"):
        rows.append(("Job", f"`{job}`"))
    return rows


def _judged_on(report: Report) -> str:
    splits = report.json["splits"]
    told = f"{splits['select']:,} held-out examples, which trained nothing"
    if splits.get("fit"):
        told += f"; coefficients were fitted on {splits['fit']:,} others"
    return told


def _where(report: Report) -> str:
    files = [f"`{name}`" for name in weights_of(report)]
    shown = ", ".join(files[:3]) + (f" and {plural(len(files) - 3, 'more file')}" if len(files) > 3 else "")
    if report.is_curve:
        return "none is written: `rebuild` below makes the best one"
    place = f"`{report.folder}`" if report.folder else "the folder of this page"
    return f"{shown} in {place}" if files else place


def weights_of(report: Report) -> list[str]:
    """The model's files among those of the result."""
    names = sorted(report.part("files"))
    return [name for name in names if name.endswith(WEIGHTS) and name != STATISTICS]


def loading(report: Report) -> Code:
    """A few lines of Python."""
    return Code(title="Load it", language="python", text="\n".join(_loading(report)))


def _loading(report: Report) -> Sequence[str]:
    folder = report.folder or "path/to/this/folder"
    if "adapters" in report.json:
        return [
            "from peft import PeftModel",
            "",
            f"model = PeftModel.from_pretrained(base_model, {json.dumps(folder)})",
        ]
    files = weights_of(report)
    described = next((name for name in files if name.endswith(".metadata")), None)
    if described is not None:
        place = "/".join(filter(None, (folder, described.removesuffix(".metadata").rstrip("/"))))
        return [
            "import torch.distributed.checkpoint as dcp",
            "",
            "# `state_dict` has the tensors and names of the checkpoints",
            f"dcp.load(state_dict, checkpoint_id={json.dumps(place)})",
        ]
    weights = [name for name in files if name.endswith(".safetensors")] or ["model.safetensors"]
    lines = ["from safetensors.torch import load_file", ""]
    if len(weights) == 1:
        lines.append(f"weights = load_file({json.dumps(f'{folder}/{weights[0]}')})")
    else:
        lines += ["weights = {}", f"for shard in sorted(Path({json.dumps(folder)}).glob('*.safetensors')):"]
        lines = ["from pathlib import Path", "", *lines, "    weights |= load_file(shard)"]
    lines.append("model.load_state_dict(weights)")
    if "config.json" in report.part("inputs").get("side_files", {}):
        lines.append("# or, for a model of transformers: AutoModel.from_pretrained(folder)")
    return lines


def headline(report: Report) -> list[tuple[str, str, str]]:
    """A few numbers in large type: what, how much, and of what."""
    winner, best, metric = report.winner, report.best, report.metric
    rows = [(metric, value_of(metric, winner["select"].get(metric)), str(winner["label"]))]
    if winner["method"] != "best":
        rows.append(("best checkpoint", value_of(metric, best["select"].get(metric)), best_name(report)))
        rows.append(("gain", *_gain(report)))
    rows.append(("checkpoints", f"{len(report.names):,}", f"{len(report.candidates)} candidates"))
    return rows


def _gain(report: Report) -> tuple[str, str]:
    """The amount, and its interval."""
    metric, gain = report.json["metric"], report.json["gain"]
    if not gain["value"]:
        return "0", "a lower loss decided"
    name = metric["name"]
    if is_share(name):
        return f"{signed(100 * gain['value'], 1)} points", interval(metric, gain)
    return better(name, gain["value"]), f"95 %: {better_between(name, gain['low'], gain['high'])}"


def best_name(report: Report) -> str:
    """Of the best single checkpoint."""
    weights = report.best["coefficients"][0]
    return str(report.labels[weights.index(max(weights))])

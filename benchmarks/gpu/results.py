"""The two files of the check: JSON with every figure, and Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measuring import slug, table_lines

from gpu.worker import FAILED, NOT_RUN, PASSED, SKIPPED


def write(folder: Path, result: Mapping[str, Any]) -> Path:
    """Both files, each replaced at once; the JSON's path."""
    name = f"gpu-check-{slug(result['machine']['device'])}{'-quick' if result['quick'] else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(result, indent=1, default=str) + "\n"), (".md", markdown(result))):
        temporary = folder / f".{name}{suffix}.tmp"
        temporary.write_text(text)
        temporary.replace(folder / f"{name}{suffix}")
    return folder / f"{name}.json"


def markdown(result: Mapping[str, Any]) -> str:
    parts = result["parts"]
    lines = [
        f"# GPU check on {result['machine']['device']}",
        "",
        f"Made by `{result['command']}` in {result['seconds']:.0f} s. {summary(result)} [What the parts "
        f"are](../../docs/gpu.md).",
        "",
        *table_lines(("machine", ""), _machine_rows(result["machine"])),
        "",
        *table_lines(
            ("part", "", "s", "load", "found"),
            (
                [part["name"], _loud(part["status"]), _number(part, "seconds"), _number(part, "load"), _one_line(part)]
                for part in parts
            ),
        ),
    ]
    for part in parts:
        lines += _section(part)
    return "\n".join(lines) + "\n"


def summary(result: Mapping[str, Any]) -> str:
    names = {
        status: [part["name"] for part in result["parts"] if part["status"] == status]
        for status in (PASSED, FAILED, SKIPPED, NOT_RUN)
    }
    said = [f"{len(names[PASSED])} of {len(result['parts'])} parts passed"]
    for status in (FAILED, SKIPPED, NOT_RUN):
        if names[status]:
            said.append(f"{len(names[status])} {status} ({', '.join(names[status])})")
    return ", ".join(said) + "."


def _machine_rows(machine: Mapping[str, Any]) -> list[list[str]]:
    gpu = machine.get("gpu", {})
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rows = [
        ["device", machine["device"] + (f" x {gpu['count']}" if gpu else "")],
        ["host", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.0f} GB"],
        ["versions", versions],
        ["commit", machine["commit"] or "unknown"],
    ]
    if gpu:
        rows[1:1] = [
            ["its memory", f"{gpu['memory_bytes'] / 1e9:.1f} GB, {gpu['free_bytes'] / 1e9:.1f} free at the start"],
            ["driver", f"{gpu['driver'] or 'unknown'}; CUDA {gpu['cuda']}, cuDNN {gpu['cudnn']}, NCCL {gpu['nccl']}"],
        ]
    return rows


def _section(part: Mapping[str, Any]) -> list[str]:
    lines = ["", f"## {part['name']}: {part['status']}", "", part["summary"]]
    if part.get("reason"):
        lines += ["", *_quoted(part["reason"])]
    if part.get("lines"):
        lines += ["", *part["lines"]]
    if part.get("traceback"):
        lines += ["", "```", part["traceback"].strip(), "```"]
    return lines


def _quoted(text: str) -> list[str]:
    return [f"> {line}".rstrip() for line in text.splitlines()]


def _loud(status: str) -> str:
    return "**failed**" if status == FAILED else status


def _number(part: Mapping[str, Any], name: str) -> str:
    return f"{part[name]:.1f}" if name in part else "-"


def _one_line(part: Mapping[str, Any]) -> str:
    """Short, and without what would end a cell."""
    text = (part.get("reason") or part.get("says") or "-").split("\n")[0].replace("|", "/")
    return text if len(text) <= 160 else text[:157] + "..."

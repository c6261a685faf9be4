"""8. Reproduce: the job, the digests of what went in and came out, versions, and how to rebuild the model."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ladle_report.command import command, has_paths, python, spec
from ladle_report.limits import shorten
from ladle_report.model import Code, Facts, Part, Section, Table
from ladle_report.reading import Report

MOST_CHARS = 8000
"""Of the job as JSON: a list of steps may be long."""


def reproduce_section(report: Report) -> Section:
    """Everything that another run needs."""
    parts: list[Part] = [_rebuild(report), *_job(report), _versions(report), _digests(report)]
    return Section(name="reproduce", title="Reproduce", parts=parts)


def _rebuild(report: Report) -> Code:
    settings = report.part("settings")
    folder = settings.get("ckpt_dir") if isinstance(settings.get("ckpt_dir"), str) else "path/to/checkpoints"
    result = report.folder or "path/to/this/folder"
    text = (
        "from ladle_engine import rebuild\n\n"
        f'rebuild({json.dumps(result)}, {json.dumps(folder)}, output="again")\n'
        '# another candidate: rebuild(..., candidate="uniform")'
    )
    return Code(
        title="Rebuild the same model, bit for bit, from the checkpoints and `coefficients.json`",
        language="python",
        text=text,
    )


def _job(report: Report) -> list[Part]:
    settings = report.part("settings")
    if not has_paths(settings):
        return ["The job was a call of `average` with data or functions of a program, so there is no command for it."]
    told = json.dumps(spec(settings), indent=2, ensure_ascii=False)
    return [
        Code(title="The job as a command", language="shell", text=shorten(command(settings), MOST_CHARS)),
        Code(title="The same in Python", language="python", text=shorten(python(settings), MOST_CHARS)),
        Code(title="The same as a job spec, for `POST /v1/jobs`", language="json", text=shorten(told, MOST_CHARS)),
    ]


def _versions(report: Report) -> Facts:
    versions = report.part("versions")
    rows = [("Versions", ", ".join(f"{name} {version}" for name, version in versions.items()))]
    rows += [(name.replace("_", " ").capitalize(), f"`{value}`") for name, value in report.part("provenance").items()]
    rows.append(("Seed", str(report.json["splits"].get("seed", 0))))
    return Facts(rows=rows)


def _digests(report: Report) -> Table:
    rows = list(_files(report))
    most = report.limits.rows
    return Table(
        caption="SHA-256 of what was read and written",
        heads=["file", "what", "SHA-256"],
        rows=rows[:most],
        note=f"{len(rows) - most:,} more are in `report.json` and `coefficients.json`." if len(rows) > most else "",
    )


def _files(report: Report) -> Iterator[list[str]]:
    chars = report.limits.chars
    for name, digest in report.part("files").items():
        yield [shorten(name, chars), "result", str(digest)]
    for name, entry in report.part("inputs").get("data", {}).items():
        digest = entry.get("sha256") or entry.get("sha256_of_names_and_sizes")
        if digest:
            yield [
                name,
                "data" if "sha256" in entry else f"names and sizes of {entry.get('files', 0):,} files",
                str(digest),
            ]
    for name, digest in report.part("inputs").get("side_files", {}).items():
        yield [shorten(name, chars), "side file", str(digest)]
    for checkpoint in report.json["checkpoints"]:
        for name, digest in (checkpoint.get("files") or {}).items():
            where = name if name == checkpoint["name"] else f"{checkpoint['name']}/{name}"
            yield [shorten(where, chars), "checkpoint", str(digest)]

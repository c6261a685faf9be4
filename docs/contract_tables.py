"""Writes the tables and the JSON schema that the docs take from the contract: `python docs/contract_tables.py`.

A table is between `<!-- from the contract: NAME -->` and `<!-- end -->`. A test fails while a page is out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from ladle_contracts import JobResult, JobSpec
from ladle_contracts.command_flags import ARGUMENTS, PANELS
from ladle_contracts.events import KnownEvent
from ladle_contracts.inspection import (
    AutoPlan,
    Expected,
    Forecast,
    InspectedBase,
    InspectedCheckpoint,
    Inspection,
    PlannedMemory,
)
from ladle_contracts.spec_fields import SPEC_FIELDS, SpecField

DOCS = Path(__file__).parent
SCHEMA = DOCS / "job-spec.schema.json"
INSPECTION_SCHEMA = DOCS / "inspection.schema.json"
SECTION = re.compile(r"(<!-- from the contract: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fields_table() -> str:
    """Every option of a job with its path, for rest.md."""
    rows = [(f"`{field.path}`", _value(field), _default(field), field.help) for field in SPEC_FIELDS]
    return _table(("option", "value", "default", ""), rows)


def parts_table() -> str:
    """The keywords of `submit`, for client.md."""
    rows = []
    for name, info in JobSpec.model_fields.items():
        inside = ", ".join(f"`{field.name}`" for field in SPEC_FIELDS if field.path.startswith(f"{name}."))
        if name not in ARGUMENTS:
            rows.append((f"`{name}`", inside, " ".join((info.description or "").split())))
    return _table(("keyword", "fields of its mapping", ""), rows)


def flags_table() -> str:
    """The flags of `ladle run` and `ladle submit`, for command.md."""
    panels = []
    for title, flags in PANELS.items():
        rows = [(f"`{flag.name} {flag.placeholder}".strip() + "`", flag.help) for flag in flags]
        panels.append(f"**{title}**\n\n{_table(('flag', ''), rows)}")
    return "\n".join(panels)


def events_table() -> str:
    """The kinds of events, for rest.md."""
    bodies: tuple[type[BaseModel], ...] = get_args(get_args(KnownEvent)[0])
    rows = []
    for body in bodies:
        fields = ", ".join(f"`{name}`" for name in body.model_fields if name != "kind")
        rows.append((f"`{body.model_fields['kind'].default}`", " ".join((body.__doc__ or "").split()), fields))
    return _table(("kind", "", "fields"), rows)


def inspection_table() -> str:
    """What an inspection says, for inspect.md."""
    parts: dict[str, type[BaseModel]] = {
        **{"": Inspection, "checkpoints[].": InspectedCheckpoint, "plan.": AutoPlan, "plan.memory.": PlannedMemory},
        **{"base.": InspectedBase, "forecast.": Forecast, "forecast.result.": Expected},
    }
    rows = [
        (f"`{prefix}{name}`", " ".join((info.description or "").split()))
        for prefix, model in parts.items()
        for name, info in model.model_fields.items()
    ]
    return _table(("field", ""), rows)


def result_table() -> str:
    """What a job that succeeded made, for rest.md."""
    rows = [(f"`{name}`", " ".join((info.description or "").split())) for name, info in JobResult.model_fields.items()]
    return _table(("field", ""), rows)


TABLES: dict[str, Callable[[], str]] = {
    "fields": fields_table,
    "parts": parts_table,
    "flags": flags_table,
    "events": events_table,
    "inspection": inspection_table,
    "result": result_table,
}
PAGES = ("rest.md", "client.md", "command.md", "inspect.md")


def texts() -> dict[Path, str]:
    """Each file that is made from the contract, as it should be."""
    schema = json.dumps(JobSpec.model_json_schema(), indent=2) + "\n"
    inspection = json.dumps(Inspection.model_json_schema(), indent=2) + "\n"
    return {SCHEMA: schema, INSPECTION_SCHEMA: inspection} | {
        DOCS / page: _filled((DOCS / page).read_text()) for page in PAGES
    }


def _filled(page: str) -> str:
    return SECTION.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], page)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _value(field: SpecField) -> str:
    return field.limits if "enum" in field.schema else ", ".join(part for part in (field.kind, field.limits) if part)


def _default(field: SpecField) -> str:
    if field.required:
        return "required"
    default: Any = field.default
    if isinstance(default, bool):
        return f"`{json.dumps(default)}`"
    return "" if default in (None, {}, ()) else f"`{default}`"


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text)

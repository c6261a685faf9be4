"""What the shell completes: jobs, nodes, methods, tasks, their options, and result folders.

It runs at every press of Tab, so it asks for a moment only, and where nothing answers it says nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from ladle._errors import LadleError
from ladle._reports import REPORT_FILE
from ladle.cli.arguments import RESULTS
from ladle.cli.catalog_cache import cached_catalog
from ladle_contracts import TERMINAL_STATES, Catalog, JobRecord, MethodInfo, TaskInfo
from ladle_contracts.safe_text import one_line

Completion = tuple[str, str]
"""A word, and the help beside it in shells that show one."""

ANSWER_S = 0.8
"""How long the service may take."""
MOST = 50
PLAIN = re.compile(r"(~/)?[\w./+@=,-]+", re.ASCII)
"""A shell reads these as they are. Nothing else is offered, whoever named it."""


def complete_job(ctx: typer.Context, incomplete: str) -> list[Completion]:
    """Jobs, the newest first, with their state and age."""
    return _offer(_jobs(ctx, lambda record: True), incomplete)


def complete_unfinished_job(ctx: typer.Context, incomplete: str) -> list[Completion]:
    """Jobs that have not ended."""
    return _offer(_jobs(ctx, lambda record: record.state not in TERMINAL_STATES), incomplete)


def complete_node(ctx: typer.Context, incomplete: str) -> list[Completion]:
    """Worker machines with their state."""
    return _offer(((node.id, node.state) for node in _ask(ctx, lambda client: client.nodes())), incomplete)


def complete_method(ctx: typer.Context, incomplete: str) -> list[Completion]:
    return _offer(_named(_catalog(ctx).methods), incomplete)


def complete_task(ctx: typer.Context, incomplete: str) -> list[Completion]:
    return _offer(_named(_catalog(ctx).tasks), incomplete)


def complete_metric(ctx: typer.Context, incomplete: str) -> list[Completion]:
    """Those of the task that the line names, or of all."""
    tasks = _chosen(_catalog(ctx).tasks, ctx.params.get("task"))
    names = dict.fromkeys(metric for task in tasks for metric in task.metrics)
    return _offer(((name, "") for name in names), incomplete)


def complete_method_option(ctx: typer.Context, incomplete: str) -> list[Completion]:
    """`steps=96`: the options of the method that the line names, each with its default."""
    return _options(_chosen(_catalog(ctx).methods, ctx.params.get("method") or "auto"), incomplete)


def complete_task_option(ctx: typer.Context, incomplete: str) -> list[Completion]:
    """The same of the task."""
    return _options(_chosen(_catalog(ctx).tasks, ctx.params.get("task")), incomplete)


def complete_result(incomplete: str) -> list[Completion]:
    """Folders of results: in the folder that the word begins with, or in `ladle-results`."""
    # The word's beginning stays as it was typed, or the shell would not take it: `./`, `~/`.
    begun = incomplete[: incomplete.rfind("/") + 1] or f"{RESULTS}/"
    return _offer(((begun + name, told) for name, told in _results(Path(begun).expanduser())), incomplete)


def _offer(found: Iterable[Completion], incomplete: str) -> list[Completion]:
    return [(word, one_line(told)) for word, told in found if word.startswith(incomplete) and PLAIN.fullmatch(word)]


def _jobs(ctx: typer.Context, is_wanted: Callable[[JobRecord], bool]) -> Iterator[Completion]:
    from ladle_report.numbers import ago

    already = set(ctx.params.get("job_ids") or ())
    records: Sequence[JobRecord] = _ask(ctx, lambda client: list(islice(client.jobs(), MOST)))
    for record in records:
        if is_wanted(record) and record.id not in already:
            yield record.id, f"{record.state}, {ago(record.created_at)}, {record.spec.method.name}"


def _ask(ctx: typer.Context, question: Callable[[Any], Any]) -> Any:
    """The service's answer, or nothing."""
    from ladle._client import Client

    with suppress(LadleError, OSError, ValidationError):
        given = ctx.params
        with Client(given.get("url"), given.get("token"), timeout=ANSWER_S, patience=0.0) as client:
            return question(client)
    return ()


def _catalog(ctx: typer.Context) -> Catalog:
    """Of the service, else what was last seen: to ask the installation itself would import torch."""
    parts = _ask(ctx, lambda client: (client.methods(), client.tasks()))
    if parts:
        return Catalog(methods=parts[0], tasks=parts[1])
    return cached_catalog() or Catalog(methods=(), tasks=())


def _named(infos: Iterable[MethodInfo | TaskInfo]) -> Iterator[Completion]:
    return ((info.name, info.summary) for info in infos)


def _chosen(infos: Sequence[Any], name: str | None) -> Sequence[Any]:
    return [info for info in infos if info.name == name] if name else infos


def _options(infos: Iterable[MethodInfo | TaskInfo], incomplete: str) -> list[Completion]:
    words: dict[str, str] = {}
    for option in (option for info in infos for option in info.options):
        default = "" if option.default is None else option.default
        text = default if isinstance(default, str) else json.dumps(default)
        # A default that a shell would read in another way is left to the person.
        word = f"{option.name}={text}"
        words.setdefault(word if PLAIN.fullmatch(word) else f"{option.name}=", option.help)
    return _offer(words.items(), incomplete)


def _results(folder: Path) -> Iterator[Completion]:
    from ladle_report.numbers import ago

    with suppress(OSError):
        reports = {report: report.stat().st_mtime for report in folder.glob(f"[!.]*/{REPORT_FILE}")}
        for report in sorted(reports, key=lambda each: reports[each], reverse=True)[:MOST]:
            yield report.parent.name, ago(datetime.fromtimestamp(reports[report], UTC))

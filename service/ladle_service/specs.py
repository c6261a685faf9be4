"""From the body of a submit to a spec that this installation can run; or the problem, with the field's name."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from fastapi import Request
from pydantic import ValidationError

from ladle_contracts import Catalog, ErrorCode, JobSpec, MethodInfo, NodeRecord, OptionInfo, TaskInfo
from ladle_service.problems import ApiError, field_error, invalid_fields, shown
from ladle_service.roots import check_output, check_paths
from ladle_service.settings import Settings
from ladle_service.strict_json import NotJson, check_json

Info = TypeVar("Info", MethodInfo, TaskInfo)


async def read_spec(request: Request) -> JobSpec:
    """The body as a spec. Only JSON: a browser sends other kinds for any site, without asking."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        detail = "The `Content-Type` header must be application/json, but is something else or absent."
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, detail)
    body = await request.body()
    try:
        check_json(body)
        return JobSpec.model_validate_json(body)
    except NotJson as error:
        raise ApiError(ErrorCode.INVALID_SPEC, f"The body must be JSON, but is not: {error}.") from error
    except ValidationError as error:
        detail = "The job spec must follow the schema, but does not."
        raise ApiError(ErrorCode.INVALID_SPEC, detail, errors=invalid_fields(error)) from error


def digest_of(spec: JobSpec) -> str:
    """Equal for two bodies that ask for the same, whatever their spelling."""
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()


async def check_spec(spec: JobSpec, settings: Settings, catalog: Catalog, nodes: Sequence[NodeRecord]) -> None:
    """What the schema cannot say. The worker checks all of it again, where the files are opened."""
    _check_method(spec, catalog)
    _check_task(spec, catalog)
    _check_size(spec, nodes)
    # File systems may be slow or far away: never on the event loop.
    await asyncio.to_thread(check_paths, spec, settings.roots)
    await asyncio.to_thread(check_output, spec, settings.results_dir)


def _check_method(spec: JobSpec, catalog: Catalog) -> None:
    """While no worker is known, any name may turn out right. `auto` is no method of its own, but tries them all."""
    names = {method.name for method in catalog.methods}
    if not names or (spec.method.name == "auto" and "auto" not in names):
        return
    method = _find(ErrorCode.UNKNOWN_METHOD, "method.name", spec.method.name, catalog.methods)
    _check_options("method.options", spec.method.options, method.options)


def _check_task(spec: JobSpec, catalog: Catalog) -> None:
    """The metric too; of a task that is still to be inferred, any task's."""
    tasks = catalog.tasks
    if not tasks:
        return
    if spec.task is not None and spec.task.name is not None:
        tasks = (_find(ErrorCode.UNKNOWN_TASK, "task.name", spec.task.name, tasks),)
        _check_options("task.options", spec.task.options, tasks[0].options)
    metrics = list(dict.fromkeys(metric for task in tasks for metric in task.metrics))
    if spec.metric is not None and spec.metric not in metrics:
        raise _unknown(ErrorCode.INVALID_SPEC, "metric", spec.metric, metrics)


def _find(code: ErrorCode, field: str, name: str, known: Sequence[Info]) -> Info:
    for info in known:
        if info.name == name:
            return info
    raise _unknown(code, field, name, [info.name for info in known])


def _check_options(field: str, options: Iterable[str], known: Sequence[OptionInfo]) -> None:
    names = [option.name for option in known]
    for name in options:
        if name not in names:
            raise _unknown(ErrorCode.UNKNOWN_OPTION, field, name, names)


def _unknown(code: ErrorCode, field: str, name: str, known: Sequence[str]) -> ApiError:
    """What would have been right."""
    near = difflib.get_close_matches(name, known, n=1)
    rule = f"must be among {', '.join(known)}" if known else "must be empty: there are no options"
    message = f"`{field}` {rule}, but is {shown(name)}" + (f"; did you mean `{near[0]}`?" if near else ".")
    return ApiError(code, message, errors=[field_error(field, message)])


def _check_size(spec: JobSpec, nodes: Sequence[NodeRecord]) -> None:
    """More than all nodes that were ever seen will not come by waiting. While none was seen, anything may come."""
    if not nodes:
        return
    wanted = spec.resources
    big_enough = sum(node.ranks >= wanted.ranks_per_node for node in nodes)
    if big_enough < wanted.nodes:
        message = (
            f"`resources` must fit the cluster, but needs more: {len(nodes)} node(s) were ever registered, "
            f"the largest takes {max(node.ranks for node in nodes)} rank(s)."
        )
        raise ApiError(ErrorCode.NOT_ENOUGH_NODES, message, errors=[field_error("resources", message)])

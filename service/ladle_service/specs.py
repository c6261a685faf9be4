"""From the body of a submit to a spec that this installation can run, or to a problem that names the field."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from ladle_contracts import Catalog, ErrorCode, JobSpec, MethodInfo, NodeRecord, OptionInfo, TaskInfo
from ladle_contracts._model import Contract
from ladle_contracts.hints import did_you_mean
from ladle_service.problems import ApiError, field_error, invalid_fields, shown
from ladle_service.roots import check_output, check_paths
from ladle_service.settings import Settings
from ladle_service.strict_json import NotJson, check_json

Info = TypeVar("Info", MethodInfo, TaskInfo)
Body = TypeVar("Body", bound=Contract)


async def read_spec(request: Request) -> JobSpec:
    """The body as a spec."""
    return await read_body(request, JobSpec, "job spec")


async def read_body(request: Request, model: type[Body], what: str) -> Body:
    """The body as a model. Only JSON, because a browser sends other types for any site without asking."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        detail = "The `Content-Type` header must be application/json, but is not."
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, detail)
    return read_json(await request.body(), model, what)


def read_json(body: bytes, model: type[Body], what: str) -> Body:
    """JSON as a model. Raises `invalid-spec`."""
    try:
        check_json(body)
        return model.model_validate_json(body)
    except NotJson as error:
        raise ApiError(ErrorCode.INVALID_SPEC, f"The body must be JSON, but is not: {error}.") from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        if first["type"] == "json_invalid":  # too deep, or with half of a character
            detail = f"The body must be JSON, but is not: {first['ctx']['error']}."
            raise ApiError(ErrorCode.INVALID_SPEC, detail) from error
        detail = f"The {what} breaks a rule. `errors` names each field."
        raise ApiError(ErrorCode.INVALID_SPEC, detail, errors=invalid_fields(error)) from error


def digest_of(spec: JobSpec) -> str:
    """Equal for two bodies that ask for the same job, however they are written: names in any order, defaults given or
    left out, 1 or 1.0. A field that a later version adds changes nothing where it is not used."""
    asked = spec.model_dump(mode="json", exclude_defaults=True)
    # A part that sets nothing, such as `"task": {}`, is as good as none.
    used = {name: _plain(value) for name, value in asked.items() if value != {}}
    if isinstance(spec.val_set, dict) and spec.judge_by == "first":
        # Here alone the order of names counts.
        used["judge_by"] = {next(iter(spec.val_set)): 1}
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A JSON value in which a whole number is an int."""
    match value:
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


async def check_spec(spec: JobSpec, settings: Settings, catalog: Catalog, nodes: Sequence[NodeRecord]) -> None:
    """Checks what the schema cannot express. The worker checks it all again, where the files are opened."""
    _check_method(spec, catalog)
    _check_task(spec, catalog)
    _check_size(spec, nodes, settings)
    _check_webhooks(spec, settings)
    # Not on the event loop, because file systems may be slow.
    await asyncio.to_thread(_check_files, spec, settings)


def _check_files(spec: JobSpec, settings: Settings) -> None:
    check_paths(spec, settings.roots, settings.far_roots)
    check_output(spec, settings.results_dir)


def _check_method(spec: JobSpec, catalog: Catalog) -> None:
    """While no worker is known, any name may exist. `auto` is not a method itself, but tries several."""
    names = {method.name for method in catalog.methods}
    if not names or (spec.method.name == "auto" and "auto" not in names):
        return
    method = _find(ErrorCode.UNKNOWN_METHOD, "method.name", spec.method.name, catalog.methods)
    _check_options("method.options", spec.method.options, method.options)


def _check_task(spec: JobSpec, catalog: Catalog) -> None:
    """Checks the metric too. If the task is still to be inferred, the metric of any task will do."""
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
    """The error for a name that does not exist, with those that do."""
    hint = did_you_mean(name, known)
    rule = f"must be one of {', '.join(known)}" if known else "must be empty, because there are no options"
    message = f"`{field}` {rule}, but is {shown(name)}. {hint}".rstrip()
    return ApiError(code, message, errors=[field_error(field, message)])


def _check_size(spec: JobSpec, nodes: Sequence[NodeRecord], settings: Settings) -> None:
    """A job that needs more than all known nodes would wait until there are more, which the operator may want. While no
    node is known, any may come, and a dispatcher takes any job."""
    wanted, most = spec.resources, settings.max_nodes_per_job
    if most is not None and wanted.nodes > most:
        raise _too_large("resources.nodes", most, wanted.nodes, "this service allows no more for a job")
    if not nodes or settings.oversized_jobs == "wait" or any(node.dispatches for node in nodes):
        return
    # Without a number, any node will do.
    ranks, largest = wanted.ranks_per_node or 1, max(node.ranks for node in nodes)
    big_enough = sum(node.ranks >= ranks for node in nodes)
    if ranks > largest:
        raise _too_large("resources.ranks_per_node", largest, ranks, "the largest node has no more")
    field, least = ("nodes", wanted.nodes) if wanted.min_nodes is None else ("min_nodes", wanted.min_nodes)
    if least > big_enough:
        reason = "no more nodes with so many ranks are known" if ranks > 1 else "no more nodes are known"
        raise _too_large(f"resources.{field}", big_enough, least, reason)


def _check_webhooks(spec: JobSpec, settings: Settings) -> None:
    """What a name leads to is checked when it is called."""
    problem = None
    if spec.webhooks and settings.webhook_secret_file is None:
        problem = (
            "must be empty, because the operator of the service has not set `LADLE_WEBHOOK_SECRET_FILE`, but is not"
        )
    elif any(url.startswith("http:") for url in spec.webhooks) and not settings.webhook_private:
        problem = "must begin with `https://`, but one of them does not"
    if problem is not None:
        detail = f"`webhooks` {problem}."
        raise ApiError(ErrorCode.INVALID_SPEC, detail, errors=[field_error("webhooks", detail)])


def _too_large(field: str, most: int, value: int, reason: str) -> ApiError:
    message = f"`{field}` must be at most {most}, because {reason}, but is {value}."
    return ApiError(ErrorCode.NOT_ENOUGH_NODES, message, errors=[field_error(field, message)])

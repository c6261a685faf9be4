"""The form that submits a job, from the beginning or from a job that is there.

Each button sends the whole form, so nothing is lost and no script is needed. With `submit.js` only what changes is
replaced in the page.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic_core import to_json

from ladle_contracts import Catalog, ErrorCode, Inspection, InspectRequest, JobSpec
from ladle_contracts.command_flags import FIELDS
from ladle_contracts.output_names import planned_output_name
from ladle_contracts.spec_fields import unknown_fields
from ladle_service.auth import Caller, CallerDependency
from ladle_service.dependencies import JOB_ID, SettingsDependency, StoreDependency
from ladle_service.limits import LimitsDependency, OwnerLimits
from ladle_service.pages.browser import open_browser, press
from ladle_service.pages.equivalents import equivalents
from ladle_service.pages.form import make_form
from ladle_service.pages.form_values import Filled, fill, texts_of
from ladle_service.pages.templates import page
from ladle_service.problems import ApiError, not_found
from ladle_service.routes.inspect import inspect_folder
from ladle_service.routes.jobs import accept_job, find_job
from ladle_service.sessions import check_csrf, form_of
from ladle_service.settings import Settings
from ladle_service.specs import digest_of, read_json
from ladle_service.store import JobStore

router = APIRouter(prefix="/submit", include_in_schema=False)

KEY = "key"
"""The control whose value is new for each form: a form that is sent twice makes one job."""
FROM = "from"
"""The control that says which job the form was filled from."""


@dataclass(kw_only=True)
class Draft:
    """A form that is being filled in."""

    texts: dict[str, str]
    catalog: Catalog
    errors: dict[str, str] = field(default_factory=dict)
    """Field -> what is wrong with it."""
    problem: ApiError | None = None
    """Why the job was not accepted."""
    inspection: Inspection | None = None
    inspection_problem: ApiError | None = None
    page_of_folder: int = 1

    @property
    def summary(self) -> str:
        """Why the job was not accepted, in a sentence."""
        assert self.problem is not None
        is_about_fields = self.problem.code is ErrorCode.INVALID_SPEC and self.errors
        return "A rule is broken. It is told beside each field." if is_about_fields else self.problem.detail

    def refuse(self, error: ApiError) -> None:
        """Keeps what a request was refused with."""
        self.problem = error
        self.errors |= _by_field(error)


@router.get("")
async def show_form(
    request: Request, caller: CallerDependency, store: StoreDependency, settings: SettingsDependency
) -> Response:
    """The form: empty, filled from a job with `?from=JOB`, or with fields by name, such as `?method.name=twa`."""
    catalog = await store.catalog()
    texts = {name: text for name, text in request.query_params.items() if name in FIELDS}
    left_out: list[str] = []
    if job_id := request.query_params.get(FROM):
        if not JOB_ID.fullmatch(job_id):
            raise not_found("such job")
        spec = (await find_job(store, job_id, caller)).spec
        texts = {**texts_of(spec, catalog), "output.name": "", FROM: job_id} | texts
        left_out = unknown_fields(spec)
    draft = Draft(texts={KEY: secrets.token_hex(10), **texts}, catalog=catalog)
    return await _shown(request, caller, settings, draft, left_out=left_out)


@router.post("/draft")
async def change_form(
    request: Request,
    caller: CallerDependency,
    store: StoreDependency,
    settings: SettingsDependency,
    limits: LimitsDependency,
) -> Response:
    """A button was pressed that submits nothing: it opens a folder, inspects the checkpoints, or checks the form."""
    await check_csrf(request)
    texts = await form_of(request)
    verb, _, argument = texts.pop("do", "").partition(":")
    press(texts, verb, argument)
    draft = Draft(texts=texts, catalog=await store.catalog())
    if verb == "page" and argument.isdecimal():
        draft.page_of_folder = int(argument[:9])
    if verb == "inspect":
        await _inspect(draft, caller, store, settings, limits)
    return await _shown(request, caller, settings, draft)


@router.post("")
async def submit(
    request: Request, caller: CallerDependency, store: StoreDependency, settings: SettingsDependency
) -> Response:
    """Submits the job, or shows the form with what is wrong."""
    await check_csrf(request)
    texts = await form_of(request)
    draft = Draft(texts=texts, catalog=await store.catalog())
    try:
        spec = _spec_of(draft)
        key = f"page-{texts.get(KEY, '')[:40]}-{digest_of(spec)[:16]}"
        record, _ = await accept_job(spec, caller, store, settings, key)
    except ApiError as error:
        draft.refuse(error)
        return await _shown(request, caller, settings, draft, status=422)
    return RedirectResponse(f"/jobs/{record.id}", status_code=303)


def _spec_of(draft: Draft) -> JobSpec:
    """Raises `invalid-spec` with every field that is wrong."""
    filled = fill(draft.texts, draft.catalog)
    draft.errors |= filled.errors
    spec = read_json(to_json(filled.body), JobSpec, "job spec")
    if filled.errors:
        raise ApiError(ErrorCode.INVALID_SPEC, "The job spec breaks a rule.")
    return spec


async def _inspect(draft: Draft, caller: Caller, store: JobStore, settings: Settings, limits: OwnerLimits) -> None:
    """What is in the folder of checkpoints, as the form describes it."""
    filled = fill(draft.texts, draft.catalog)
    asked = {name: value for name, value in filled.body.items() if name in InspectRequest.model_fields}
    try:
        wanted = read_json(to_json(asked), InspectRequest, "request")
        draft.inspection = await inspect_folder(wanted, caller, store, settings, limits)
    except ApiError as error:
        draft.inspection_problem = error
        draft.errors |= _by_field(error)


async def _shown(
    request: Request, caller: Caller, settings: Settings, draft: Draft, *, status: int = 200, **values: Any
) -> Response:
    filled = fill(draft.texts, draft.catalog)
    url = f"{request.url.scheme}://{request.url.netloc}"
    return page(
        request,
        "submit.html",
        status=status,
        form=make_form(draft.texts, draft.catalog, draft.errors),
        texts=draft.texts,
        draft=draft,
        browser=await open_browser(draft.texts, settings, draft.page_of_folder),
        equivalents=equivalents(filled.body, url, with_token=request.app.state.tokens is not None),
        result_name=_result_name(filled),
        results_dir=settings.results_dir,
        roots=settings.roots + settings.far_roots,
        has_nodes=bool(draft.catalog.methods),
        **{"left_out": [], **values},
    )


def _result_name(filled: Filled) -> str | None:
    """What the result would be called; None while the form says too little."""
    asked = {name: filled.body[name] for name in ("ckpt_dir", "method", "output") if name in filled.body}
    try:
        return planned_output_name(JobSpec.model_validate_json(to_json({**asked, "val_set": "/"})))
    except ValueError:
        return None


def _by_field(error: ApiError) -> Mapping[str, str]:
    return {str(each["field"]): str(each["message"]) for each in error.errors}

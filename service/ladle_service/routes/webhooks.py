"""What receivers of webhooks need: the secret with which they check that a request is ours."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from ladle_contracts import ErrorCode
from ladle_contracts.api import WebhookSecret
from ladle_service.auth import CallerDependency
from ladle_service.dependencies import NoQuery
from ladle_service.problems import ApiError, openapi_responses
from ladle_service.webhooks.signing import Secret

router = APIRouter(prefix="/v1", tags=["webhooks"])


@router.get(
    "/webhook-secret",
    responses=openapi_responses(ErrorCode.UNAUTHORIZED, ErrorCode.NOT_FOUND, ErrorCode.INVALID_REQUEST),
)
async def get_webhook_secret(
    request: Request, caller: CallerDependency, query: Annotated[NoQuery, Query()]
) -> WebhookSecret:
    """The secret that signs the webhooks of the caller's jobs. Whoever has it can sign too, so a token that may only
    read does not get it."""
    if not caller.may_submit:
        raise ApiError(ErrorCode.FORBIDDEN, "The token must have the scope `submit` for this, but has `read`.")
    secret: Secret | None = request.app.state.webhook_secret
    if secret is None:
        detail = "There are no webhooks here: the operator of the service has not set `LADLE_WEBHOOK_SECRET_FILE`."
        raise ApiError(ErrorCode.NOT_FOUND, detail)
    return WebhookSecret(secret=str(secret.of_owner(caller.owner)))

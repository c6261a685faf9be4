"""What the operator has configured, and the caller's own tokens. No secret is in it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from ladle_contracts.tokens import StoredToken
from ladle_service.auth import Caller, CallerDependency, Tokens
from ladle_service.dependencies import SettingsDependency, StoreDependency
from ladle_service.pages.folders import roots_there
from ladle_service.pages.templates import page
from ladle_service.routes.health import VERSION
from ladle_service.settings import Settings
from ladle_service.store import JobStore

router = APIRouter(prefix="/settings", include_in_schema=False)

OVERSIZED = {"refuse": "is refused", "wait": "waits until there are more"}


@dataclass(frozen=True, kw_only=True)
class OwnToken:
    """A token of the caller's name."""

    token: StoredToken
    used_at: datetime | None
    is_this: bool
    """Whether the page is logged in with it."""
    has_expired: bool


@router.get("")
async def show_settings(
    request: Request, caller: CallerDependency, store: StoreDependency, settings: SettingsDependency
) -> Response:
    """The page."""
    nodes = await store.nodes()
    return page(
        request,
        "settings.html",
        version=VERSION,
        nodes=nodes,
        roots=await asyncio.to_thread(roots_there, settings.roots),
        far_roots=settings.far_roots,
        results_dir=settings.results_dir,
        limits=_limits(settings),
        tokens=await _own_tokens(request.app.state.tokens, caller, store),
    )


def _limits(settings: Settings) -> list[tuple[str, str, str]]:
    """What is limited, the limit, and the variable that the operator sets."""

    def days(number: float) -> str:
        return f"{number:g} days" if number else "for ever"

    return [
        (
            "Queued jobs of one owner",
            f"{settings.max_queued_jobs_per_owner:,}",
            "LADLE_MAX_QUEUED_JOBS_PER_OWNER",
        ),
        ("Nodes of one job", str(settings.max_nodes_per_job or "no limit"), "LADLE_MAX_NODES_PER_JOB"),
        ("A job that needs more nodes than there are", OVERSIZED[settings.oversized_jobs], "LADLE_OVERSIZED_JOBS"),
        ("Requests of one owner per second", f"{settings.max_requests_per_s:g}", "LADLE_MAX_REQUESTS_PER_S"),
        ("Streams of one owner", f"{settings.max_streams_per_owner:,}", "LADLE_MAX_STREAMS_PER_OWNER"),
        ("Size of a request", f"{settings.max_body_bytes:,} bytes", "LADLE_MAX_BODY_BYTES"),
        ("Jobs that have ended are kept", days(settings.keep_jobs_days), "LADLE_KEEP_JOBS_DAYS"),
        ("Their events and logs are kept", days(settings.keep_events_days), "LADLE_KEEP_EVENTS_DAYS"),
        ("Nodes that are gone are listed", days(settings.keep_nodes_days), "LADLE_KEEP_NODES_DAYS"),
        ("Most jobs that have ended", f"{settings.keep_jobs_most:,}", "LADLE_KEEP_JOBS_MOST"),
    ]


async def _own_tokens(tokens: Tokens | None, caller: Caller, store: JobStore) -> list[OwnToken] | None:
    """None for a service without tokens."""
    if tokens is None:
        return None
    own = await tokens.of_owner(caller.owner)
    now = datetime.now(UTC)
    return [
        OwnToken(token=token, used_at=used_at, is_this=token.id == caller.token_id, has_expired=token.has_expired(now))
        for token, used_at in zip(own, await store.last_uses([token.id for token in own]), strict=True)
    ]

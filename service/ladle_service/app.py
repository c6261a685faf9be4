"""Makes the ASGI application from the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.types import ASGIApp

from ladle_contracts import ErrorCode
from ladle_service import openapi, pages, problems
from ladle_service.audit import Audit
from ladle_service.auth import Tokens
from ladle_service.backend import connect_backend
from ladle_service.limits import OwnerLimits, count_request
from ladle_service.metrics import CountRequests, Metrics
from ladle_service.middleware import BodyLimit, SameSite, SecurityHeaders
from ladle_service.pages.errors import ProblemPages
from ladle_service.request_ids import RequestIds
from ladle_service.routes import ROUTERS, health, metrics
from ladle_service.settings import Settings
from ladle_service.store import JobStore
from ladle_service.tracing import Traced

Connect = Callable[[Settings], AbstractAsyncContextManager[JobStore]]


class Application(FastAPI):
    """Every answer has the security headers and its place in the audit log, also that to a mistake of ours, which
    Starlette answers outside of all other middleware."""

    def build_middleware_stack(self) -> ASGIApp:
        """Starlette's own."""
        inside = Traced(ProblemPages(Audit(super().build_middleware_stack())))
        counted = CountRequests(RequestIds(inside), self.state.metrics)
        return SecurityHeaders(counted, over_tls=self.state.settings.tls_cert is not None)


def create_app(settings: Settings, connect: Connect = connect_backend) -> FastAPI:
    """The service. `connect` opens the store and starts the scheduler for as long as the application runs.

    Raises TokensFileError or OSError when the tokens file cannot be used.
    """
    tokens = None if settings.tokens_file is None else Tokens(settings.tokens_file)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with connect(settings) as app.state.store:
            yield

    app = Application(
        title="Ladle",
        version=health.VERSION,
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        openapi_url="/openapi.json",
        docs_url=None,  # its page loads scripts from other sites
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.webhook_secret = settings.webhook_secret()
    app.state.tokens = tokens
    app.state.limits = OwnerLimits(requests_per_s=settings.max_requests_per_s, streams=settings.max_streams_per_owner)
    app.state.metrics = Metrics(health.VERSION)
    app.include_router(health.router)
    app.include_router(metrics.router)
    for router in ROUTERS:
        limited = problems.openapi_responses(ErrorCode.TOO_MANY_REQUESTS)
        app.include_router(router, dependencies=[Depends(count_request)], responses=limited)
    for router in pages.ROUTERS:
        app.include_router(router, dependencies=[Depends(count_request)])
    for router in pages.OPEN_ROUTERS:
        app.include_router(router)
    problems.install(app)
    openapi.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if tokens is None:
        app.add_middleware(SameSite, over_socket=settings.uds is not None)
    return app

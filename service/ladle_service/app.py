"""Makes the ASGI application from the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from ladle_service import openapi, problems
from ladle_service.auth import TokenBook, read_tokens
from ladle_service.backend import connect_backend
from ladle_service.middleware import BodyLimit, SameSite
from ladle_service.routes import ROUTERS
from ladle_service.routes.health import VERSION
from ladle_service.settings import Settings
from ladle_service.store import JobStore

Connect = Callable[[Settings], AbstractAsyncContextManager[JobStore]]


def create_app(settings: Settings, connect: Connect = connect_backend) -> FastAPI:
    """The service. `connect` opens the store and starts the scheduler for as long as the application runs.

    Raises TokensFileError or OSError when the tokens file cannot be used.
    """
    tokens: TokenBook | None = None if settings.tokens_file is None else read_tokens(settings.tokens_file)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with connect(settings) as app.state.store:
            yield

    app = FastAPI(
        title="Ladle",
        version=VERSION,
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        openapi_url="/openapi.json",
        docs_url=None,  # its page loads scripts from other sites
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.tokens = tokens
    for router in ROUTERS:
        app.include_router(router)
    problems.install(app)
    openapi.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if tokens is None:
        app.add_middleware(SameSite, over_socket=settings.uds is not None)
    return app

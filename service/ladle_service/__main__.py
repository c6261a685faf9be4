"""`python -m ladle_service` runs the service; `... schema` prints the JSON schema of a job spec, and
`... webhook-secret` a new secret."""

from __future__ import annotations

import argparse
import asyncio
import atexit
import gc
import json
import logging
import os
import signal
import socket
import ssl
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from ladle_contracts import JobSpec, telemetry
from ladle_contracts.environment import explain_settings
from ladle_contracts.logs import set_up_logging
from ladle_contracts.processes import keep_secrets
from ladle_contracts.safe_text import one_line
from ladle_contracts.tokens import TokensFileError
from ladle_service.app import create_app
from ladle_service.audit import log_to
from ladle_service.connections import KEEP_ALIVE_S, ConnectionLimits
from ladle_service.listening import EventLoop, allow_connections
from ladle_service.settings import Settings
from ladle_service.webhooks.signing import new_secret

logger = logging.getLogger("ladle_service")


COLLECT_AFTER = (50_000, 5, 10)
"""Python's own numbers are for small programs: with 2,000 clients it would stop for a second, again and again."""


class Server(uvicorn.Server):
    """Ends open event streams when it has to stop, instead of waiting for them."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own, in our event loop."""
        wait_s = self._app.state.settings.client_timeout_s
        # Nobody gets an answer while garbage is collected. What was imported is none, and the rest is looked at rarely.
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        with asyncio.Runner(loop_factory=lambda: EventLoop(wait_s)) as runner:
            runner.run(self.serve(sockets))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Runs in the main thread, like the event loop. uvicorn's own handler would end the process with the signal
        afterwards, but being asked to stop is not a failure, and there is a socket to remove."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._app.state.store.end_streams()
        await super().shutdown(sockets)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m ladle_service", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("schema", help="print the JSON schema of the job spec: docs/job-spec.schema.json")
    commands.add_parser("webhook-secret", help="print a new secret for LADLE_WEBHOOK_SECRET_FILE")
    given = parser.parse_args(arguments)
    if given.command == "webhook-secret":
        print(new_secret())
        return 0
    if given.command == "schema":
        print(json.dumps(JobSpec.model_json_schema(), indent=2))
        return 0
    return _serve()


def _serve() -> int:
    keep_secrets()
    try:
        settings = Settings()
        app = create_app(settings)
        if settings.audit_log is not None:
            atexit.register(log_to(settings.audit_log).stop)
    except ValidationError as error:
        print("ladle_service cannot start:", *explain_settings(error), sep="\n  ", file=sys.stderr)
        return 2
    except (TokensFileError, OSError) as error:
        print(one_line(f"ladle_service cannot start: {error}"), file=sys.stderr)
        return 2
    set_up_logging(settings.log_level, settings.log_format)
    telemetry.name_service("ladle-service")
    atexit.register(telemetry.end)
    _warn_of_roots(settings)
    connections = ConnectionLimits(most=allow_connections(settings.max_connections), wait_s=settings.client_timeout_s)
    if settings.tokens_file is not None:
        # The streams of one owner must leave room for others.
        app.state.limits.streams = min(app.state.limits.streams, max(1, connections.most // 2))
    config = uvicorn.Config(
        app,
        http=connections.protocol,  # type: ignore[arg-type]  # uvicorn only calls it
        ws="none",
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        timeout_keep_alive=KEEP_ALIVE_S,
        server_header=False,
        lifespan="on",
        log_config=None,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        log_level=settings.log_level,
    )
    if settings.tls_cert is not None and not _use_tls(config):
        return 2
    server = Server(config, app)
    if settings.uds is None:
        server.run()
        return 0 if server.started else 1
    try:
        listener = _listen_privately(settings.uds)
    except OSError as error:
        print(f"ladle_service cannot start: `LADLE_UDS` {settings.uds}: {error}", file=sys.stderr)
        return 2
    try:
        server.run(sockets=[listener])
    finally:
        settings.uds.unlink(missing_ok=True)
    return 0 if server.started else 1


def _use_tls(config: uvicorn.Config) -> bool:
    """Loads the certificate. False, after a message, if that is not possible."""
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        told = f"`LADLE_TLS_CERT` and `LADLE_TLS_KEY` must be a certificate and its key in PEM, but are not: {error}."
        print(one_line(f"ladle_service cannot start: {told}"), file=sys.stderr)
        return False
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return True


def _warn_of_roots(settings: Settings) -> None:
    for root in settings.roots:
        if not root.is_dir():
            logger.warning("`LADLE_ROOTS` must hold folders, but %s is not one, so no job can use a path in it", root)


def _listen_privately(path: Path) -> socket.socket:
    """A unix socket that only its owner can open. uvicorn's own is open to everybody."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise FileExistsError("another service listens there")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


if __name__ == "__main__":
    raise SystemExit(main())
